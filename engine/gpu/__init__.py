"""The GPU path: its kernels, what they can gain by a device's limits, and how they are checked where they run."""
