"""Adding nodes to a graph in the way that onnxscript's rewriter builds them: `build.Cast(x, to=…)`."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import tape

__all__ = ["Builder", "const", "initializer"]


class Builder:
    """Appends nodes to a graph; their places are left to a later sort.

    Parameters
    ----------
    graph
        The graph.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._tape = tape.Tape(graph)

    def __getattr__(self, op_type: str) -> Any:  # noqa: ANN401 (a function of any ONNX operator's signature)
        """Return a function that adds a node of one output, and gives the output."""

        def add(*inputs: ir.Value | None, _name: str | None = None, **attributes: Any) -> ir.Value:  # noqa: ANN401
            value = self._tape.op(op_type, inputs, attributes)
            if _name is not None:
                value.name = _name
            return value

        return add


def const(op: Any, array: NDArray[np.generic] | list[int]) -> ir.Value:  # noqa: ANN401 (ours, or onnxscript's builder)
    """Add a constant; a list of numbers becomes int64."""
    value: ir.Value = op.Constant(value=ir.tensor(np.asarray(array)))
    return value


def initializer(graph: ir.Graph, name: str, values: NDArray[np.generic]) -> ir.Value:
    """Store constants in a graph under a name of their own."""
    tensor = ir.tensor(np.ascontiguousarray(values), name=name)
    value = ir.Value(name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
