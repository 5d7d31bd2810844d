"""Bringing a dense graph into the plain form in which blocks are looked for."""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from lazyneuron.engine.errors import CheckpointError, one_line
from lazyneuron.exporters.sources.axes import Axis, Group, name_axes
from lazyneuron.exporters.sources.unfuse import DOMAIN, unfuse

__all__ = ["OLDEST_OPSET", "normalise"]

OLDEST_OPSET = 13
"""From this opset on ReduceSum, Unsqueeze and Squeeze take their axes as an input, as our nodes do."""


def normalise(
    model: ir.Model,
    *,
    keep_axes: bool,
    agreeing: Iterable[Group] = (),
    named: Mapping[Axis, str] = MappingProxyType({}),
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
    )(model).model
    unfuse(model)
    model = ir.passes.Sequential(passes.RemoveUnusedNodesPass(), passes.ShapeInferencePass(), passes.NameFixPass())(
        model
    ).model
    if any(node.domain == DOMAIN for node in model.graph):
        _infer_contrib(model)
    name_axes(model.graph, keep=keep_axes, agreeing=agreeing, named=named)
    return model


def _infer_contrib(model: ir.Model) -> None:
    """Give values around ONNX Runtime's own operators, which ONNX's inference does not know, types and shapes."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference  # needs sympy, which torch brings

    proto = ir.to_proto(model)
    try:
        # Where it fails it leaves a file in the working folder.
        with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
            inferred = SymbolicShapeInference.infer_shapes(proto, auto_merge=True)
    except Exception:  # noqa: BLE001 (what has no shape is named when it is looked at)
        return
    known = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for value in (output for node in model.graph for output in node.outputs):
        if value.shape is None and value.name in known:
            found = ir.from_proto(known[value.name])
            value.shape, value.type = found.shape, found.type


def _modern(model: ir.Model, opset: int) -> ir.Model:
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), 17)
    except Exception as error:
        first = one_line(error, 160)
        raise CheckpointError(
            f"the model is in opset {opset}, and ONNX cannot bring it to 17 ({first}); export it again in opset 17"
        ) from error
    return ir.from_proto(converted)
