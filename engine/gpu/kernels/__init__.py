"""The sparse operators' kernels in Triton.

Importing this package's modules imports triton: to build the kernels, to test them and to run them from Python.
Serving never does; it loads what ``lazyneuron.engine.gpu.build`` has compiled.

All kernels share these habits. A program works on one row or on one tile; nothing is communicated between programs,
so that results never depend on timing. Sums are float32, in an order that is fixed by the kernel's own tile sizes.
Where a product and a sum are rounded together, ``fma`` says so; the compiler is told not to do that by itself. An
optional input comes with a bit of ``flags`` (``common``), and where the bit is not set its pointer is never followed.
Offsets of rows are 64-bit, since rows x neurons and neurons x depth pass 2^31.
"""
