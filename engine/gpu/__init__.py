"""The GPU path: Triton kernels, built ahead of time; the driver's devices; the self-check; the roofline.

Importing any of these needs neither a GPU nor `triton`, but for `kernels`' own modules and `build`.
"""
