"""The int8 rest: which products become int8, how far off they may be, and what is left alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

import lazyneuron
from lazyneuron.exporters import comparison
from lazyneuron.exporters.quantization import Quantized, quantize
from lazyneuron.exporters.sessions import save
from tests.exporters import graphs
from tests.exporters.graphs import OUT, D, F
from tests.exporters.rewriting import rewrite_file
from tests.exporters.sources.test_hugging_face import make, requests_for

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((D, OUT)).astype(np.float32)
BIAS = RNG.standard_normal(OUT).astype(np.float32)


def quantized(path: Path) -> tuple[Quantized, Path]:
    """Quantise a file into another one beside it."""
    result = quantize(ir.load(path), path.parent)
    written = path.with_suffix(".int8.onnx")
    save(result.model, written)
    return result, written


def nodes(path: Path) -> Counter[str]:
    return Counter(n.op_type for n in onnx.load(path).graph.node)


def bound(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Half a step of each operand: 8 bits over the whole of x, 7 over each column of w."""
    step_x = (max(x.max(), 0) - min(x.min(), 0)) / 255
    step_w = np.abs(w).max(axis=0) / 63
    rows = np.abs(x) @ np.ones_like(w) * (step_w / 2) + np.abs(w).sum(axis=0) * (step_x / 2)
    return rows + len(w) * step_x * step_w / 4 + 1e-5


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (graphs.node("MatMul", "x w", "y"), {"w": WEIGHT}),
        (graphs.node("Gemm", "x w b", "y"), {"w": WEIGHT, "b": BIAS}),
        (graphs.node("Gemm", "x w b", "y", transB=1), {"w": WEIGHT.T.copy(), "b": BIAS}),
        (graphs.node("Gemm", "x w", "y", transB=1), {"w": WEIGHT.T.copy()}),
    ],
    ids=["MatMul", "Gemm", "transposed", "no-bias"],
)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_a_product_is_off_by_its_codes_steps(tmp_path_factory, node, constants, seed, scale):
    folder = tmp_path_factory.mktemp("product")
    shapes = {"inputs": {"x": (TensorProto.FLOAT, ["batch", D])}, "outputs": {"y": (TensorProto.FLOAT, ["batch", OUT])}}
    result, path = quantized(graphs.save(folder / "m.onnx", [node], constants, **shapes))
    assert (result.products, result.kept) == (1, 0)
    assert nodes(path)["MatMulInteger"] == 1
    x = (np.random.default_rng(seed).standard_normal((7, D)) * scale).astype(np.float32)
    error = np.abs(graphs.run(path, {"x": x})["y"] - (x @ WEIGHT + (BIAS if "b" in constants else 0)))
    assert (error <= bound(x, WEIGHT)).all()


def test_weights_stay_within_seven_bits(tmp_path):
    """Pairs of products with uint8 codes then fit 16 bits, as AVX2 without VNNI adds them."""
    _, path = quantized(graphs.save(tmp_path / "m.onnx", [graphs.node("MatMul", "x w", "y")], {"w": WEIGHT}))
    (codes,) = (
        numpy_helper.to_array(t)
        for t in onnx.load(path).graph.initializer
        if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    )
    assert np.abs(codes).max(axis=0).min() >= 60
    assert 2 * 255 * int(np.abs(codes.astype(int)).max()) <= 2**15


def test_a_tied_weight_is_transposed_once_and_its_other_use_stays_float(tmp_path):
    constants = {"embedding": RNG.standard_normal((9, D)).astype(np.float32)}
    graph = [
        graphs.node("Gather", "embedding ids", "x"),
        graphs.node("Transpose", "embedding", "head", perm=[1, 0]),
        graphs.node("MatMul", "x head", "y"),
    ]
    path = graphs.save(
        tmp_path / "m.onnx",
        graph,
        constants,
        inputs={"ids": (TensorProto.INT64, ["batch"])},
        outputs={"y": (TensorProto.FLOAT, ["batch", 9])},
    )
    result, written = quantized(path)
    assert result.products == 1
    assert nodes(written) == Counter(["Gather", "DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"])
    ids = np.arange(9)
    x = constants["embedding"]
    assert (np.abs(graphs.run(written, {"ids": ids})["y"] - x @ x.T) <= bound(x, x.T)).all()


@pytest.mark.parametrize(
    ("node", "constants", "kind"),
    [
        (graphs.node("MatMul", "x w", "y"), {"w": WEIGHT.astype(np.float16)}, TensorProto.FLOAT16),
        (graphs.node("MatMul", "x w", "y"), {"w": WEIGHT[None]}, TensorProto.FLOAT),
    ],
    ids=["float16", "three axes"],
)
def test_other_weights_stay(tmp_path, node, constants, kind):
    shapes = {"inputs": {"x": (kind, [1, "rows", D])}, "outputs": {"y": (kind, [1, "rows", OUT])}}
    result, path = quantized(graphs.save(tmp_path / "m.onnx", [node], constants, **shapes))
    assert (result.products, result.kept) == (0, 1)
    assert nodes(path) == Counter(["MatMul"])


@pytest.mark.parametrize(
    "node",
    [
        graphs.node("MatMul", "x x", "y"),
        graphs.node("MatMul", "w x", "y"),
        graphs.node("Gemm", "x w", "y", alpha=2.0),
        graphs.node("Gemm", "x w", "y", transA=1),
    ],
    ids=["computed", "constant on the left", "alpha", "transA"],
)
def test_other_products_stay(tmp_path, node):
    square = {"inputs": {"x": (TensorProto.FLOAT, [D, D])}, "outputs": {"y": (TensorProto.FLOAT, [D, D])}}
    weight = RNG.standard_normal((D, D)).astype(np.float32)
    constants = {"w": weight} if "w" in node.input else {}
    result, path = quantized(graphs.save(tmp_path / "m.onnx", [node], constants, **square))
    assert (result.products, result.kept) == (0, 0)
    assert nodes(path) == Counter([node.op_type])


def operators(path: Path) -> list[tuple[bytes, dict[str, bytes]]]:
    """Each operator of ours, with the constants it takes."""
    model = onnx.load(path)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [
        (
            sorted(a.SerializeToString() for a in node.attribute),
            {i: constants[name].tobytes() for i, name in enumerate(node.input) if name in constants},
        )
        for node in model.graph.node
        if node.domain == "lazyneuron"
    ]


@pytest.mark.parametrize("mode", ["exact", "certified"])
def test_operators_keep_their_weights_and_attributes(tmp_path, mode):
    sparse, _, graph = rewrite_file(
        graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights()), mode=mode, top_k=4
    )
    result, path = quantized(sparse)
    assert result.products == (1 if mode == "exact" else 0)  # certified has its up projection inside
    assert len(operators(sparse)) == 1
    assert operators(path) == operators(sparse)
    outputs = [(o.name, o.type) for o in onnx.load(sparse).graph.output]
    assert [(o.name, o.type) for o in onnx.load(path).graph.output] == outputs
    x = RNG.standard_normal((2, 3, D)).astype(np.float32)
    assert graphs.run(path, {"x": x})[graph.active_outputs[0]].max() <= 4  # the budget kept its default


PRODUCTS = {"t5": 4 * 2, "opt": 4 * 2 + 1, "bert-classifier": 4 * 2 + 2, "vit": 4 * 2 + 1}
"""Query, key, value and output of two layers; OPT's and ViT's heads; BERT's pooler and head."""


@pytest.mark.parametrize(
    ("family", "mode"), [("t5", "certified"), ("opt", "exact"), ("bert-classifier", "certified"), ("vit", "exact")]
)
def test_whole_models(tmp_path, family, mode):
    module = make(family)
    module.save_pretrained(tmp_path / "checkpoint")
    options = {"mode": mode, "version": 1} | ({"task": "feature-extraction"} if family == "t5" else {})
    plain = lazyneuron.export(tmp_path / "checkpoint", tmp_path / "plain", **options)
    report = lazyneuron.export(tmp_path / "checkpoint", tmp_path / "int8", quantize="int8", **options)
    made = nodes(report.path / "model.onnx")
    expected = PRODUCTS[family] + (2 if mode == "exact" else 0)
    assert made["MatMulInteger"] == expected
    assert operators(report.path / "model.onnx") == operators(plain.path / "model.onnx")
    assert (plain.manifest.quantize, report.manifest.quantize) == ("none", "int8")
    assert any(f"{expected} products outside the sparse operators are int8" in note for note in report.manifest.notes)
    assert any("up projections of 2 exact blocks" in n for n in report.manifest.notes) == (mode == "exact")

    error = max(o.max_rel_error for o in report.manifest.quality.outputs)
    assert comparison.TOLERANCE < error < 0.2
    model = lazyneuron.load(report.path)
    inner = module.encoder if family == "t5" else module
    (inputs,) = requests_for(model, 1)
    with torch.no_grad():
        wanted = inner(**{k: torch.from_numpy(v) for k, v in inputs.items()})[0].numpy()
    prediction = model.predict(inputs)
    graphs.assert_close(next(iter(prediction.outputs.values())), wanted, tolerance=4 * error)
    assert all(0 < block.active < F * 1000 for block in prediction.sparsity.blocks)


def test_nothing_to_quantise_is_said(tmp_path):
    """A certified block alone has no product outside."""
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    manifest = lazyneuron.export(path, tmp_path / "m", mode="certified", quantize="int8").manifest
    assert manifest.quantize == "none"
    assert any(note.startswith("Nothing was quantised") for note in manifest.notes)


def test_weights_in_a_file_of_their_own(tmp_path):
    """Weights past a message's 2 GB lie beside the graph; here they do so past 1 MB."""
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(f=1 << 16))
    report = lazyneuron.export(path, tmp_path / "m", quantize="int8")
    assert set(report.manifest.files) == {"model.onnx", "model.onnx.data", "plan.json", "probe.npz", "report.html"}
    assert {p.name for p in report.path.iterdir()} == {*report.manifest.files, "manifest.json"}
    assert nodes(report.path / "model.onnx")["MatMulInteger"] == 1
    dense, int8 = path.stat().st_size, (report.path / "model.onnx.data").stat().st_size
    assert int8 < 0.75 * dense  # the up projection's bytes are a quarter
