"""Putting a block together from its activation, its gate and what surrounds them."""

import onnx_ir as ir

from lazyneuron.engine.artifact import Activation
from lazyneuron.exporters.blocks.between import Between
from lazyneuron.exporters.blocks.block import Block, Projection, Refusal
from lazyneuron.exporters.blocks.gating import Gate
from lazyneuron.exporters.blocks.naming import name_of
from lazyneuron.exporters.blocks.recognise import operators_own
from lazyneuron.exporters.blocks.rows import rows_of
from lazyneuron.exporters.blocks.walk import FLOATS, leak, projection, through_layout

__all__ = ["assemble", "assemble_gated", "check_types", "places"]


def assemble(
    y: ir.Value, between: Between, computed: Activation, layout: tuple[ir.Node, ...] = (), gate: Gate | None = None
) -> Block | None:
    """Read the up projection before an activation that the operator computes, and the down projection that ends in `y`.

    Parameters
    ----------
    y
        The block's output.
    between
        The activation's nodes; their one source is what the up projection gives, perhaps rearranged.
    computed
        The activation.
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
    (source,) = between.sources
    before, first = through_layout(source)
    up, down = projection(before), projection(y)
    if up is None or down is None:
        return None
    layout = (*first, *layout)
    _check_width(up.weight.shape[1], down.weight.shape[0], gate)
    check_types(up, down)
    inside = {*up.nodes, *layout, *between.nodes, *down.nodes, *(gate.nodes if gate else ())}
    used = leak(inside, y)
    if used is not None:
        raise Refusal(used)
    rows, flattened = rows_of(down.x, up.x)
    name = name_of(*places(up, down))
    return Block(name, computed, computed, up, down, layout, gate.k if gate else 0, rows, flattened)


def assemble_gated(y: ir.Value, product: ir.Node, gate: Between, other: ir.Value, activation: str) -> Block | None:
    """Read the three projections of a gated block.

    Parameters
    ----------
    y
        The block's output.
    product
        Multiplies the activated gate by the up projection.
    gate
        The activation's nodes; their one source is the gate projection.
    other
        The up projection.
    activation
        Its name.

    Raises
    ------
    Refusal
        If it is a gated block that cannot be taken.
    """
    scores, up, down = projection(gate.sources[0]), projection(other), projection(y)
    if scores is None or up is None or down is None:
        return None
    _check_width(up.weight.shape[1], down.weight.shape[0], None)
    _check_width(scores.weight.shape[1], down.weight.shape[0], None)
    check_types(scores, up, down)
    rows, flattened = rows_of(down.x, up.x)
    name = name_of(*places(scores, up, down))
    # The operator can stand for the activation and the up projection if nothing else needs their values.
    inside = {*up.nodes, *gate.nodes, product, *down.nodes}
    own = operators_own(activation)
    whole = own in {"relu", "relu2"} and scores.x is up.x and leak(inside, y) is None
    computed = own if own is not None and whole else "identity"
    return Block(name, activation, computed, up, down, (), 0, rows, flattened, scores)


def places(*projections: Projection) -> tuple[list[ir.Node], list[str]]:
    """Return the nodes and the weights that tell where projections stand."""
    nodes = [node for p in projections for node in (_maker(p), *p.nodes) if node is not None]
    return nodes, [p.weight.key for p in projections]


def _maker(projection: Projection) -> ir.Node | None:
    node = projection.product.producer()
    whole = node.inputs[0] if projection.part and node is not None else None
    return node if whole is None else whole.producer()


def check_types(*projections: Projection) -> None:
    """Refuse values in a type that the operators do not take.

    Raises
    ------
    Refusal
        Naming the type.
    """
    for value in (p.product for p in projections):
        if value.dtype not in FLOATS:
            raise Refusal(f"its values are {value.dtype}; expected float32 or float16")


def _check_width(up: int, down: int, gate: Gate | None) -> None:
    if up != down:
        raise Refusal(f"its up projection gives {up} neurons and its down projection takes {down}")
    if gate is not None:
        width = gate.source.shape[-1] if gate.source.shape is not None else None
        if width != up:
            raise Refusal(f"its gate chooses among {width} values, and it has {up} neurons")
