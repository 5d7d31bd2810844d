"""The sparse operators on NVIDIA GPUs: kernels in Triton, compiled ahead of time.

``kernels``          the kernels; they alone import triton
``configurations``   which kernels there are, for which types of weights, with which tile sizes
``build``            compiles them into ``compiled``, which the operator library loads
``neurons``          the certified screen's side of the weights
``operators``        SparseDown and SparseMLP by these kernels, from Python: for tests and benchmarks
"""
