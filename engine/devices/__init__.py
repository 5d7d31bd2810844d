"""Where a model runs: the choice of a device, its sessions, buffers, memory and batch shapes."""
