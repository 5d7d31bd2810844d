"""The native operators' semantics in plain NumPy.

Written to be read, not to be fast: every kernel is tested against these functions. The semantics are fixed by
the project's design ("Fixed: the operators"); the ONNX domain is ``lazyneuron``, version 1.
"""

from lazyneuron.engine.reference.gating import ACTIVATIONS, activate
from lazyneuron.engine.reference.sparse_down import sparse_down
from lazyneuron.engine.reference.sparse_mlp import sparse_mlp

__all__ = ["ACTIVATIONS", "activate", "sparse_down", "sparse_mlp"]
