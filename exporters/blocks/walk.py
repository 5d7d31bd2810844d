"""Walking a graph: through reshapes and casts, to constants, and to the projections around an activation."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lazyneuron.exporters.blocks.block import Projection, Refusal, Weight

__all__ = [
    "FLOATS",
    "QUANTISED",
    "QUANTISED_REASON",
    "constant",
    "is_projection",
    "leak",
    "of_layout",
    "projection",
    "rank_of",
    "reshapes",
    "row_bias",
    "through_casts",
    "through_layout",
    "weight",
]

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
QUANTISED = {
    "DequantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulBnb4",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "QGemm",
    "QLinearMatMul",
}
QUANTISED_REASON = "its weights are quantised already; export the model from its float weights"
_LAYOUT = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout"}


def of_layout(node: ir.Node) -> bool:
    """Tell whether a node only rearranges or casts: a value keeps its order in memory, and floats stay floats."""
    if node.domain or node.op_type not in _LAYOUT:
        return False
    if node.op_type == "Cast":
        source = node.inputs[0]
        return source is not None and source.dtype in FLOATS and node.outputs[0].dtype in FLOATS
    return True


def reshapes(node: ir.Node) -> bool:
    """Tell whether a node of the layout changes the shape."""
    return of_layout(node) and node.op_type not in {"Cast", "Identity", "Dropout"}


def through_casts(value: ir.Value) -> ir.Value:
    """Walk up through casts between float types."""
    node = value.producer()
    while node is not None and of_layout(node) and not reshapes(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def through_layout(value: ir.Value) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """Walk up through reshapes and casts; return where they begin, and them in the order of the graph."""
    nodes: list[ir.Node] = []
    node = value.producer()
    while node is not None and of_layout(node) and node.inputs[0] is not None:
        nodes.append(node)
        value = node.inputs[0]
        node = value.producer()
    return value, tuple(reversed(nodes))


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """Return the value's elements if they are stored in the model as they are."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def weight(value: ir.Value | None) -> Weight | None:
    """Read a constant matrix, also when it is stored transposed or in another float type.

    Raises
    ------
    Refusal
        If it is quantised, or of another float type.
    """
    if value is None:
        return None
    if not value.is_graph_input() and (tensor := ir.convenience.get_const_tensor(value)) is not None:
        if len(tensor.shape) != 2 or not tensor.dtype.is_floating_point():
            return None
        if tensor.dtype not in FLOATS:
            raise Refusal(f"its weights are {tensor.dtype.name}; expected float32 or float16")
        rows, columns = (int(n) for n in tensor.shape.numpy())
        return Weight(str(value.name), (rows, columns), partial(_read, tensor))
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type in QUANTISED:
        raise Refusal(QUANTISED_REASON)
    if node.op_type == "Transpose" and (inner := weight(node.inputs[0])) is not None:
        perm = node.attributes.get_ints("perm", [1, 0])
        return inner if list(perm) == [0, 1] else _transposed(inner)
    if node.op_type in {"Cast", "Identity"} and value.dtype in FLOATS:
        return weight(node.inputs[0])
    return None


def _read(tensor: ir.TensorProtocol) -> NDArray[np.generic]:
    """Return a tensor's values; of one in a file a copy, so that the file does not stay mapped, page by page."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    values = np.array(tensor.numpy())
    with suppress(BufferError):  # somebody else still looks at it
        tensor.release()
    return values


def _transposed(inner: Weight) -> Weight:
    return Weight(f"{inner.key}.T", inner.shape[::-1], lambda: inner.read().T)


def rank_of(value: ir.Value, unknown: int) -> int:
    """Return how many axes a value has; `unknown` where the graph does not tell."""
    return unknown if value.shape is None else len(value.shape)


def row_bias(value: ir.Value | None, width: int, rank: int) -> NDArray[np.float32] | None:
    """Read a constant that is added to every row alike: one number, or `width` numbers on the last axis.

    Parameters
    ----------
    rank
        Of what it is added to; a constant of a higher one would give the sum more axes.
    """
    source, _ = through_layout(value) if value is not None else (None, ())
    array = constant(source)
    if array is None or array.dtype not in (np.float16, np.float32) or array.size not in (1, width):
        return None
    if value is None or rank_of(value, array.ndim) > rank:
        return None
    if array.size == width and array.ndim and array.shape[-1] != width:
        return None
    return np.broadcast_to(array.reshape(-1), (width,)).astype(np.float32)


def projection(value: ir.Value) -> Projection | None:
    """Read what computes `value` as x · weight (+ bias), if it is that.

    Raises
    ------
    Refusal
        If it is a projection of a kind that cannot be taken, with the reason.
    """
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Add":
        for i, j in ((0, 1), (1, 0)):
            product = node.inputs[i]
            inner = None if product is None else _product(product)
            if inner is None:
                continue
            bias = row_bias(node.inputs[j], inner.weight.shape[1], rank_of(inner.product, 1))
            if bias is not None:
                return Projection(inner.x, inner.product, value, inner.weight, bias, (*inner.nodes, node))
        return None
    return _part(node, value) if node.op_type in {"Split", "Slice"} else _product(value)


def is_projection(value: ir.Value) -> bool:
    """Tell whether a value is a projection, if only one that cannot be taken."""
    try:
        return projection(value) is not None
    except Refusal:
        return True


def _part(node: ir.Node, value: ir.Value) -> Projection | None:
    """Read some columns of a wider projection."""
    source = node.inputs[0]
    whole = projection(source) if source is not None else None
    if whole is None or whole.part:
        return None
    columns = _split_columns(node, value) if node.op_type == "Split" else _slice_columns(node, whole.weight.shape[1])
    rank = rank_of(whole.product, 0)
    if columns is None or columns[2] not in {-1, rank - 1}:
        return None
    first, last, _ = columns
    stored = whole.weight
    part = Weight(
        f"{stored.key}[{first}:{last}]", (stored.shape[0], last - first), lambda: stored.read()[:, first:last]
    )
    bias = None if whole.bias is None else whole.bias[first:last]
    return Projection(whole.x, value, value, part, bias, (), part=True)


def _split_columns(node: ir.Node, value: ir.Value) -> tuple[int, int, int] | None:
    """Return the first column of a part, the one after its last, and the axis."""
    sizes = [output.shape[-1] if output.shape is not None else None for output in node.outputs]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes):
        return None
    place = next(i for i, output in enumerate(node.outputs) if output is value)
    return sum(known[:place]), sum(known[: place + 1]), node.attributes.get_int("axis", 0) or 0


def _slice_columns(node: ir.Node, width: int) -> tuple[int, int, int] | None:
    start, end, axis, step = (constant(v) for v in (*node.inputs[1:], None, None)[:4])
    if start is None or end is None or start.size != 1 or axis is None or (step is not None and step.item() != 1):
        return None
    first, last, _ = slice(int(start.item()), int(end.item())).indices(width)
    return (first, last, int(axis.item())) if last > first else None


def _product(value: ir.Value) -> Projection | None:
    node = value.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Gemm" and weight(node.inputs[1]) is not None:
        raise Refusal(f"its projection {node.name} is a Gemm with transA or with a C that is no constant row")
    if node.op_type != "MatMul":
        return None
    x, matrix = node.inputs[0], weight(node.inputs[1])
    if x is None or matrix is None:
        return None
    return Projection(x, value, value, matrix, None, (node,))


def leak(nodes: Collection[ir.Node], last: ir.Value) -> str | None:
    """Say how a value computed by `nodes`, other than `last`, is used elsewhere; None if none is."""
    inside = set(nodes)
    for value in _outputs(nodes):
        if value is last:
            continue
        if value.is_graph_output():
            return f"{value.name}, inside it, is an output of the model"
        for user, _ in value.uses():
            if user not in inside:
                return f"{value.name}, inside it, is also used by {user.op_type} {user.name}"
    return None


def _outputs(nodes: Collection[ir.Node]) -> Iterator[ir.Value]:
    for node in nodes:
        yield from node.outputs
