"""Makes what is served: an MLP and encoders, each as a dense ONNX file, and as artifacts dense and sparse.

FOLDER/NAME.onnx                      the dense graph, for the peers
FOLDER/repository/NAME, NAME-sparse   our artifacts: the same dense graph; and its MLP blocks as SparseDown

The weights are random, with biases that leave 3 % of the neurons of a block active. In the dense artifact every neuron
is computed by ONNX Runtime's own MatMul, and the counts that an artifact must have are constants: all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.engine.artifact import (
    MANIFEST_FILE,
    MODEL_FILE,
    Axes,
    BlockFlops,
    BlockPlan,
    Density,
    InputSpec,
    Manifest,
    OutputSpec,
    Source,
    digest,
)

__all__ = ["KINDS", "SMALL", "Kind", "draw", "example", "make"]

Array = np.ndarray[Any, Any]
DENSITY = 0.03
_OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)]


@dataclass(frozen=True)
class Kind:
    """The shape of a model: `length` tokens in an example, or one row without tokens where it is 0."""

    d_model: int
    d_ff: int
    layers: int
    heads: int = 0
    length: int = 0
    vocabulary: int = 0


KINDS: Mapping[str, Kind] = {
    "mlp": Kind(d_model=256, d_ff=1024, layers=4),
    "encoder": Kind(d_model=384, d_ff=1536, layers=2, heads=6, length=32, vocabulary=4096),
    "distilbert": Kind(d_model=768, d_ff=3072, layers=6, heads=12, length=64, vocabulary=4096),
}
"""The last is as people serve it, but for its vocabulary; the others show the server's own part of a request."""

SMALL: Mapping[str, Kind] = {
    "mlp": Kind(d_model=16, d_ff=64, layers=2),
    "encoder": Kind(d_model=16, d_ff=64, layers=2, heads=2, length=24, vocabulary=64),
}
"""For what is about right answers and faults, not about speed."""


def example(name: str, seed: int) -> dict[str, Array]:
    """Draw one request's inputs, batch axis included."""
    kind = KINDS[name]
    return draw(kind, np.random.default_rng(seed), 1, kind.length)


def draw(kind: Kind, rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
    """Draw inputs of a batch and, where the model has tokens, a length."""
    if not kind.length:
        return {"x": rng.standard_normal((batch, kind.d_model)).astype(np.float32)}
    ids = rng.integers(1, kind.vocabulary, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def make(folder: Path, kinds: Mapping[str, Kind] = KINDS) -> Path:
    """Write all models; return the repository of ours."""
    repository = folder / "repository"
    for name, kind in kinds.items():
        onnx.save(_Graph(kind, "plain").model(), folder / f"{name}.onnx")
        for suffix in ("", "-sparse"):
            target = repository / f"{name}{suffix}" / "1"
            target.mkdir(parents=True, exist_ok=True)
            onnx.save(_Graph(kind, "sparse" if suffix else "counted").model(), target / MODEL_FILE)
            manifest = _manifest(f"{name}{suffix}", kind, target, sparse=bool(suffix))
            (target / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2))
    return repository


@dataclass
class _Graph:
    """`form`: plain (for the peers), counted (dense, with counts) or sparse."""

    kind: Kind
    form: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def op(self, operator: str, *inputs: str, to: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [to], name=f"node.{to}", **attributes))
        return to

    def constant(self, name: str, value: Array) -> str:
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weights(self, name: str, rows: int, columns: int) -> str:
        return self.constant(name, self.rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32))

    def normal(self, x: str, to: str) -> str:
        ones = self.constant(f"{to}.scale", np.ones(self.kind.d_model, np.float32))
        return self.op("LayerNormalization", x, ones, to=to, axis=-1)

    def mlp(self, layer: int, x: str, rows: str) -> str:
        """Add `x + mlp(norm(x))`."""
        kind, name = self.kind, f"mlp.{layer}"
        normal = self.normal(x, f"{name}.x")
        pre = self.op("MatMul", normal, self.weights(f"{name}.up", kind.d_model, kind.d_ff), to=f"{name}.pre")
        down = self.weights(f"{name}.down", kind.d_ff, kind.d_model)
        level = np.quantile(np.random.default_rng(2).normal(size=100_000), 1 - DENSITY)
        bias = self.constant(f"{name}.bias", np.full(kind.d_ff, -level, np.float32))
        if self.form == "sparse":
            none = self.constant(f"{name}.down_bias", np.zeros(kind.d_model, np.float32))
            node = helper.make_node(
                "SparseDown",
                [pre, down, bias, none, "row_budget"],
                [f"{name}.y", f"{name}.active"],
                name=name,
                domain="lazyneuron",
                activation="relu",
                top_k=0,
                threshold=0.0,
            )
            self.nodes.append(node)
        else:
            hidden = self.op("Relu", self.op("Add", pre, bias, to=f"{name}.sum"), to=f"{name}.hidden")
            self.op("MatMul", hidden, down, to=f"{name}.y")
            if self.form == "counted":
                every = helper.make_tensor(f"{name}.every", TensorProto.INT32, [1], [kind.d_ff])
                self.op("ConstantOfShape", rows, to=f"{name}.active", value=every)
        return self.op("Add", x, f"{name}.y", to=f"{name}.out")

    def attention(self, layer: int, x: str, bias: str) -> str:
        """Add `x + attention(norm(x))`; `bias` is [batch, 1, 1, sequence]."""
        kind, name = self.kind, f"attention.{layer}"
        normal, d = self.normal(x, f"{name}.x"), kind.d_model
        apart = self.constant("apart", np.array([0, 0, kind.heads, d // kind.heads], np.int64))
        parts = []
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            flat = self.op("MatMul", normal, self.weights(f"{name}.{part}", d, d), to=f"{name}.{part}.flat")
            split = self.op("Reshape", flat, apart, to=f"{name}.{part}.split")
            parts.append(self.op("Transpose", split, to=f"{name}.{part}.heads", perm=order))
        scale = self.constant("root", np.array((d // kind.heads) ** -0.5, np.float32))
        scores = self.op("Mul", self.op("MatMul", *parts[:2], to=f"{name}.qk"), scale, to=f"{name}.scaled")
        shares = self.op("Softmax", self.op("Add", scores, bias, to=f"{name}.masked"), to=f"{name}.shares", axis=-1)
        mixed = self.op("MatMul", shares, parts[2], to=f"{name}.mixed")
        together = self.op("Transpose", mixed, to=f"{name}.together", perm=[0, 2, 1, 3])
        joined = self.op("Reshape", together, self.constant("joined", np.array([0, 0, d], np.int64)), to=f"{name}.join")
        return self.op(
            "Add", x, self.op("MatMul", joined, self.weights(f"{name}.o", d, d), to=f"{name}.y"), to=f"{name}.out"
        )

    def model(self) -> onnx.ModelProto:
        kind = self.kind
        inputs = [_value(spec.name, spec.dtype, spec.shape) for spec in _inputs(kind)]
        x, bias, rows = "x", "", ""
        if kind.length:
            table = self.weights("embedding", kind.vocabulary, kind.d_model)
            x = self.op("Gather", table, "input_ids", to="embedded", axis=0)
            self.nodes.append(helper.make_node("Cast", ["attention_mask"], ["real"], to=TensorProto.FLOAT))
            less = self.op("Sub", "real", self.constant("one", np.array(1, np.float32)), to="less")
            far = self.op("Mul", less, self.constant("far", np.array(1e4, np.float32)), to="far.less")
            bias = self.op("Unsqueeze", far, self.constant("middle", np.array([1, 2], np.int64)), to="bias")
        if self.form == "counted":
            rows = self.op(
                "Shape", "input_ids" if kind.length else "x", to="rows", start=0, end=2 if kind.length else 1
            )
        if self.form == "sparse":
            inputs.append(_value("budget", "float32", ("batch",)))
            self.constant("budget", np.ones(1, np.float32))
            if kind.length:
                each = self.op("Unsqueeze", "budget", self.constant("last", np.array([1], np.int64)), to="each")
                self.op("Mul", each, "real", to="row_budget")
            else:
                shape = self.op("Shape", "x", to="rows", start=0, end=1)
                self.op("Expand", "budget", shape, to="row_budget")
        for layer in range(kind.layers):
            if kind.heads:
                x = self.attention(layer, x, bias)
            x = self.mlp(layer, x, rows)
        self.op("Identity", x, to="y")
        outputs = [_value("y", "float32", _output_shape(kind))]
        if self.form != "plain":
            outputs += [_value(f"mlp.{n}.active", "int32", _rows(kind)) for n in range(kind.layers)]
        graph = helper.make_graph(self.nodes, self.form, inputs, outputs, list(self.constants.values()))
        return helper.make_model(graph, opset_imports=_OPSETS if self.form == "sparse" else _OPSETS[:1], ir_version=10)


def _value(name: str, dtype: str, shape: Axes) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def _rows(kind: Kind) -> Axes:
    return ("batch", "sequence") if kind.length else ("batch",)


def _output_shape(kind: Kind) -> Axes:
    return (*_rows(kind), kind.d_model)


def _inputs(kind: Kind) -> tuple[InputSpec, ...]:
    if not kind.length:
        return (InputSpec(name="x", dtype="float32", shape=("batch", kind.d_model)),)
    shape: Axes = ("batch", "sequence")
    ids = InputSpec(
        name="input_ids", dtype="int64", shape=shape, role="tokens", pad=0, minimum=0, maximum=kind.vocabulary - 1
    )
    return ids, InputSpec(name="attention_mask", dtype="int64", shape=shape, role="mask", pad=0)


def _manifest(name: str, kind: Kind, target: Path, *, sparse: bool) -> Manifest:
    share = DENSITY if sparse else 1.0
    up = down = 2 * kind.d_model
    blocks = tuple(
        BlockPlan(
            name=f"mlp.{layer}",
            operator="SparseDown",
            mode="exact",
            activation="relu",
            d_model=kind.d_model,
            d_ff=kind.d_ff,
            d_out=kind.d_model,
            top_k=0,
            density=Density(rows=1, mean=share, p50=share, p90=share, p95=share, p99=share, never_active=0.0),
            flops=BlockFlops(dense_per_row=kind.d_ff * (up + down), per_candidate=up, per_active=down),
            rows=_rows(kind),
            active_output=f"mlp.{layer}.active",
        )
        for layer in range(kind.layers)
    )
    return Manifest(
        format_version=1,
        name=name,
        version=1,
        created_by="benchmarks/serve/models.py",
        source=Source(kind="onnx_file", name="random weights", digest="sha256:" + "0" * 64),
        task="feature-extraction",
        mode="exact",
        files={MODEL_FILE: digest(target / MODEL_FILE)},
        inputs=_inputs(kind),
        outputs=(OutputSpec(name="y", dtype="float32", shape=_output_shape(kind)),),
        budget_input="budget" if sparse else None,
        blocks=blocks,
        quality=None,
    )
