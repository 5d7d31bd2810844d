"""The int8 rest: products with constant weights around the sparse operators, quantised as ONNX Runtime's users do."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sessions import save

__all__ = ["Quantized", "quantize"]

_PREFIX = "lazyneuron.product."


@dataclass(frozen=True, slots=True)
class Quantized:
    """A graph of which a part is int8.

    Attributes
    ----------
    model
        The graph; its inputs and outputs are the float one's.
    products
        How many MatMul and Gemm nodes became MatMulInteger.
    kept
        How many stayed as they were, though one operand is constant: float16 weights, or other than two axes.
    """

    model: ir.Model
    products: int
    kept: int


def quantize(model: ir.Model, scratch: Path) -> Quantized:
    """Quantise what `onnxruntime.quantization.quantize_dynamic` can of a graph's products with constant weights.

    Weights become int8 with a scale for each column and stay within 7 bits: ONNX Runtime's AVX2 kernel adds pairs of
    8-bit products in 16 bits and saturates on full-range weights, and an artifact is served on machines that its
    export has not seen. The left operand gets uint8 codes at run time, with one scale for the whole tensor
    (DynamicQuantizeLinear). Operators of other domains, products of two computed operands (attention's scores),
    convolutions and embeddings stay as they are.

    Parameters
    ----------
    model
        It stays as it is, but for the names of nodes.
    scratch
        A folder for ONNX files of the model's size; they must stay there as long as the result is in use.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folded = model.clone()
    _fold_transposes(folded.graph)
    names, kept = _name_products(folded.graph)
    if not names:
        return Quantized(model, 0, kept)
    folder = Path(tempfile.mkdtemp(prefix="int8-", dir=scratch))  # an earlier result may still be in use
    before, after = folder / "float.onnx", folder / "int8.onnx"
    save(folded, before)
    with quiet():  # it advises, on the root logger
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul"],  # a Gemm has become MatMul and Add by then
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            # Shapes, and so types, are not inferred past operators of ours.
            extra_options={"DefaultTensorType": ir.DataType.FLOAT},
        )
    return Quantized(_typed_as(ir.load(after), model), len(names), kept)


def _fold_transposes(graph: ir.Graph) -> None:
    """Replace constants that are transposed at run time by transposed ones, as a tied head's embedding."""
    for node in list(graph):
        if node.op_type != "Transpose" or node.domain or not _feeds_products_alone(node):
            continue
        weight = node.inputs[0]
        if weight is None or weight.const_value is None or weight.name not in graph.initializers:
            continue
        axes = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
        values = np.ascontiguousarray(np.transpose(weight.const_value.numpy(), axes))
        tensor = ir.tensor(values, name=f"{weight.name}.transposed.{node.outputs[0].name}")
        folded = ir.Value(
            name=tensor.name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.register_initializer(folded)
        ir.convenience.replace_all_uses_with(node.outputs[0], folded)
        graph.remove(node, safe=True)


def _feeds_products_alone(node: ir.Node) -> bool:
    (output,) = node.outputs
    uses = list(output.uses())
    return bool(uses) and all(use.node.op_type == "MatMul" and use.idx == 1 for use in uses)


def _name_products(graph: ir.Graph) -> tuple[list[str], int]:
    """Give each product to quantise a name of its own; return how the quantiser will call them, and how many stay."""
    names, kept = [], 0
    for i, (node, weight) in enumerate(_constant_products(graph)):
        if weight.dtype != ir.DataType.FLOAT or weight.shape is None or len(weight.shape) != 2:
            kept += 1
            continue
        node.name = f"{_PREFIX}{i}"
        names.append(f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name)
    return names, kept


def _constant_products(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Give the products whose second operand alone is constant, with it."""
    for node in graph:
        if node.domain not in {"", "ai.onnx"} or node.op_type not in {"MatMul", "Gemm"}:
            continue
        x, weight = node.inputs[:2]
        if x is None or weight is None or x.const_value is not None or weight.name not in graph.initializers:
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        if weight.const_value is not None:
            yield node, weight


def _is_plain(gemm: ir.Node) -> bool:
    """Tell whether a Gemm is a MatMul and an Add."""
    defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    return all(name not in gemm.attributes or gemm.attributes[name].value == value for name, value in defaults.items())


def _typed_as(quantized: ir.Model, model: ir.Model) -> ir.Model:
    """Return the quantised model with the original's inputs' and outputs' types and axes, and no trace of the tool."""
    for made, original in zip(
        [*quantized.graph.inputs, *quantized.graph.outputs], [*model.graph.inputs, *model.graph.outputs], strict=True
    ):
        assert made.name == original.name, f"{made.name} stands where {original.name} was"
        made.type, made.shape = original.type, original.shape
    quantized.metadata_props.clear()
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    return quantized
