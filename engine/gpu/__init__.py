"""The GPU path: kernels, their table, and the devices they run on."""
