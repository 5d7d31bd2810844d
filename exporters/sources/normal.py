"""Bringing a dense graph into the plain form in which blocks are looked for."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources.axes import Axis, Group, name_axes

__all__ = ["OLDEST_OPSET", "normalise"]

OLDEST_OPSET = 13
"""From this opset on ReduceSum, Unsqueeze and Squeeze take their axes as an input, as our nodes do."""


def normalise(
    model: ir.Model, *, keep_axes: bool, agreeing: Iterable[Group] = (), named: Mapping[Axis, str] = MappingProxyType({})
) -> ir.Model:
    """Return the model with functions inlined, constants as initializers, identities gone, shapes known, axes named.

    Raises
    ------
    CheckpointError
        If the model's opset is too old to be brought up.
    """
    opset = model.opset_imports.get("", 0)
    if opset < OLDEST_OPSET:
        model = _modern(model, opset)
    model = ir.passes.Sequential(
        passes.InlinePass(),
        passes.RemoveInitializersFromInputsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.ShapeInferencePass(),
        passes.NameFixPass(),
    )(model).model
    name_axes(model.graph, keep=keep_axes, agreeing=agreeing, named=named)
    return model


def _modern(model: ir.Model, opset: int) -> ir.Model:
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), 17)
    except Exception as error:
        first = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"the model is in opset {opset}, and ONNX cannot bring it to 17 ({first}); export it again in opset 17"
        ) from error
    return ir.from_proto(converted)
