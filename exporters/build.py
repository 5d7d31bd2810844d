"""Adding nodes to a graph in the way that onnxscript's rewriter builds them: `build.Cast(x, to=…)`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import tape

__all__ = ["Builder", "const", "initializer", "lazy_tensor"]


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


def lazy_tensor(make: Callable[[], NDArray[np.generic]], name: str | None = None) -> ir.LazyTensor:
    """Return a constant that is made anew where it is read, so that the graph holds no large array.

    Parameters
    ----------
    make
        Gives the same values each time; it is called here once, for their type and shape.
    """
    values = make()
    dtype = ir.DataType.from_numpy(values.dtype)
    return ir.LazyTensor(lambda: ir.tensor(np.ascontiguousarray(make())), dtype, ir.Shape(values.shape), name=name)


def initializer(graph: ir.Graph, name: str, values: NDArray[np.generic] | ir.TensorProtocol) -> ir.Value:
    """Store constants in a graph under a name of their own."""
    tensor = ir.tensor(np.ascontiguousarray(values), name=name) if isinstance(values, np.ndarray) else values
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
