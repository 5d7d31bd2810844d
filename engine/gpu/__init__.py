"""The sparse operators on NVIDIA GPUs. `triton` is imported by `kernels` and `build` alone.

``kernels``          in Triton, with ``configurations``: which there are, for which weights, with which tiles
``build``            compiles them into ``compiled``, which the operator library loads
``neurons``          the certified screen's side of the weights
``operators``        SparseDown and SparseMLP by these kernels, from Python: for tests and benchmarks
``driver``           which GPUs there are, as CUDA's driver says
``selfcheck``        runs the operators on a device against the CPU's; ``cases``, ``places`` and ``speed`` are its parts
``roofline``         what a GPU can do by its data sheet; ``crossovers`` and ``roofline_costs`` follow from it
"""
