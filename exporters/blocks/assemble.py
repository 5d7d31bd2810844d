"""Putting a block together from its activation, its gate and what surrounds them."""

import onnx_ir as ir

from lazyneuron.engine.artifact import Activation
from lazyneuron.exporters.blocks.block import Block, Refusal
from lazyneuron.exporters.blocks.gating import Gate
from lazyneuron.exporters.blocks.naming import name_of
from lazyneuron.exporters.blocks.rows import rows_of
from lazyneuron.exporters.blocks.walk import FLOATS, leak, projection, through_layout

__all__ = ["assemble"]


def assemble(
    y: ir.Value,
    activation: Activation,
    activated: ir.Value,
    layout: tuple[ir.Node, ...] = (),
    gate: Gate | None = None,
) -> Block | None:
    """Read the up projection before an activation and the down projection that ends in `y`.

    Parameters
    ----------
    y
        The block's output.
    activated
        The activation's output; its first input is what the up projection gives.
    layout
        Reshapes and casts after the activation.
    gate
        What stands between the activation and the down projection.

    Returns
    -------
    The block; None if there is no projection on one of the sides.

    Raises
    ------
    Refusal
        If there is, and it or the block cannot be taken.
    """
    node = activated.producer()
    assert node is not None
    assert node.inputs[0] is not None
    before, first = through_layout(node.inputs[0])
    up, down = projection(before), projection(y)
    if up is None or down is None:
        return None
    layout = (*first, *layout)
    _check_width(up.weight.shape[1], down.weight.shape[0], gate)
    for value in (up.product, down.product):
        if value.dtype not in FLOATS:
            raise Refusal(f"its values are {value.dtype}; expected float32 or float16")
    inside = {*up.nodes, *layout, node, *down.nodes, *(gate.nodes if gate else ())}
    used = leak(inside, y)
    if used is not None:
        raise Refusal(used)
    rows, flattened = rows_of(down.x, up.x)
    name = name_of((*up.nodes, *down.nodes), (up.weight.key, down.weight.key))
    return Block(name, activation, up, down, layout, gate.k if gate else 0, rows, flattened)


def _check_width(up: int, down: int, gate: Gate | None) -> None:
    if up != down:
        raise Refusal(f"its up projection gives {up} neurons and its down projection takes {down}")
    if gate is not None:
        width = gate.source.shape[-1] if gate.source.shape is not None else None
        if width != up:
            raise Refusal(f"its gate chooses among {width} values, and it has {up} neurons")
