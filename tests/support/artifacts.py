"""Small real artifacts, built from ONNX graphs in which every block is a `SparseDown`.

`write_text_classifier`, `write_image_classifier`, `write_sequence_encoder` and `write_vector_model` each write
`FOLDER/NAME/VERSION/` and return that folder; `FOLDER` is then a model repository.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.engine.artifact import (
    MANIFEST_FILE,
    MODEL_FILE,
    Axes,
    BlockFlops,
    BlockPlan,
    Density,
    ImageSpec,
    InputSpec,
    Manifest,
    OutputSpec,
    ResizeSpec,
    Source,
    TokenizerSpec,
    digest,
)

VOCABULARY = (
    "[PAD]",
    "[UNK]",
    "lazy",
    "neurons",
    "sleep",
    "while",
    "few",
    "work",
    "and",
    "save",
    "time",
    "energy",
)


@dataclass(frozen=True)
class Size:
    """The shape of a small model, and how many of its neurons fire."""

    d_model: int = 16
    d_ff: int = 64
    blocks: int = 2
    classes: int = 3
    top_k: int = 0
    density: float = 0.1
    seed: int = 0


@dataclass
class _Graph:
    size: Size
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.size.seed)

    def op(self, kind: str, *inputs: str, output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes))
        return output

    def constant(self, name: str, value: NDArray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weights(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.normal(0, shape[0] ** -0.5, shape).astype(np.float32))

    def block(self, index: int, x: str, budget: str) -> str:
        """Add `x + mlp(x)`; the bias is such that about `density` of the neurons fire on normal rows."""
        size, name = self.size, f"block_{index}"
        quantile = np.quantile(self.random.normal(size=10_000), 1 - size.density)
        norm = self.constant(f"{name}.norm", np.ones(size.d_model, np.float32))
        normal = self.op("LayerNormalization", x, norm, output=f"{name}.x", axis=-1)
        pre = self.op("MatMul", normal, self.weights(f"{name}.up", size.d_model, size.d_ff), output=f"{name}.pre")
        inputs = [
            pre,
            self.weights(f"{name}.down", size.d_ff, size.d_model),
            self.constant(f"{name}.up_bias", np.full(size.d_ff, -quantile, np.float32)),
            self.constant(f"{name}.down_bias", np.zeros(size.d_model, np.float32)),
            budget,
        ]
        outputs = [f"{name}.y", f"{name}.active"]
        attributes = {"activation": "relu", "top_k": size.top_k, "threshold": 0.0}
        self.nodes.append(helper.make_node("SparseDown", inputs, outputs, name=name, domain="lazyneuron", **attributes))
        return self.op("Add", x, f"{name}.y", output=f"{name}.out")

    def blocks(self, x: str, budget: str) -> str:
        for index in range(self.size.blocks):
            x = self.block(index, x, budget)
        return x

    def row_budget(self) -> str:
        """One budget a row: its example's, and 0 where the mask says padding."""
        real = self.op("Cast", "attention_mask", output="real", to=TensorProto.FLOAT)
        each = self.op("Unsqueeze", "budget", self.constant("one", np.array([1], np.int64)), output="each")
        return self.op("Mul", each, real, output="row_budget")

    def masked_mean(self, x: str) -> str:
        """The mean over real positions [batch, 1, d]: padding that leaked would change every output."""
        middle = self.constant("middle", np.array([1], np.int64))
        real = self.op("Unsqueeze", "real", self.constant("last", np.array([2], np.int64)), output="real3")
        total = self.op("ReduceSum", self.op("Mul", x, real, output="kept"), middle, output="total", keepdims=1)
        return self.op("Div", total, self.op("ReduceSum", real, middle, output="count", keepdims=1), output="mean")


def write_text_classifier(folder: Path, name: str = "text", version: int = 1, size: Size | None = None) -> Path:
    """Write tokens -> `logits` [batch, classes] and `hidden` [batch, sequence, d]; with a tokenizer.

    A token id outside the vocabulary passes every check and fails inside ONNX Runtime.
    """
    size = size or Size()
    graph = _Graph(size)
    ids = InputSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), role="tokens", pad=0)
    budget = graph.row_budget()
    embedding = graph.weights("embedding", len(VOCABULARY), size.d_model)
    x = graph.blocks(graph.op("Gather", embedding, "input_ids", output="embedded", axis=0), budget)
    mean = graph.masked_mean(x)
    hidden = graph.op("Add", x, mean, output="hidden")
    flat = graph.op("Squeeze", mean, "one", output="pooled")
    graph.op("MatMul", flat, graph.weights("head", size.d_model, size.classes), output="logits")
    outputs = (
        OutputSpec(name="logits", dtype="float32", shape=("batch", size.classes)),
        OutputSpec(name=hidden, dtype="float32", shape=("batch", "sequence", size.d_model)),
    )
    target = folder / name / str(version)
    target.mkdir(parents=True)
    _write_tokenizer(target / "tokenizer.json")
    labels = tuple(f"class {i}" for i in range(size.classes))
    return _write(graph, target, (ids, _MASK), outputs, tokenizer=TokenizerSpec(max_length=64), labels=labels)


def write_sequence_encoder(folder: Path, name: str = "sequence", version: int = 1, size: Size | None = None) -> Path:
    """Write `x` [batch, sequence, d] -> `y` of the same shape, each position aware of its example's mean."""
    size = size or Size()
    graph = _Graph(size)
    shape = ("batch", "sequence", size.d_model)
    budget = graph.row_budget()
    x = graph.blocks("x", budget)
    graph.op("Add", x, graph.masked_mean(x), output="y")
    inputs = (InputSpec(name="x", dtype="float32", shape=shape, pad=0), _MASK)
    target = folder / name / str(version)
    target.mkdir(parents=True)
    return _write(graph, target, inputs, (OutputSpec(name="y", dtype="float32", shape=shape),))


def write_vector_model(folder: Path, name: str = "vector", version: int = 1, size: Size | None = None) -> Path:
    """Write `x` [batch, d] -> `logits` [batch, classes]: a row an example, nothing ragged."""
    size = size or Size()
    graph = _Graph(size)
    examples = graph.op("Shape", "x", output="examples", start=0, end=1)
    x = graph.blocks("x", graph.op("Expand", "budget", examples, output="row_budget"))
    graph.op("MatMul", x, graph.weights("head", size.d_model, size.classes), output="logits")
    inputs = (InputSpec(name="x", dtype="float32", shape=("batch", size.d_model)),)
    target = folder / name / str(version)
    target.mkdir(parents=True)
    return _write(graph, target, inputs, (OutputSpec(name="logits", dtype="float32", shape=("batch", size.classes)),))


def write_image_classifier(folder: Path, name: str = "image", version: int = 1, size: Size | None = None) -> Path:
    """Write `pixel_values` [batch, 3, 8, 8] -> `logits` [batch, classes]; with an image preprocessor."""
    size = size or Size(d_model=3 * 8 * 8)
    graph = _Graph(size)
    examples = graph.op("Shape", "pixel_values", output="examples", start=0, end=1)
    budget = graph.op("Expand", "budget", examples, output="row_budget")
    flat = graph.op("Flatten", "pixel_values", output="flat", axis=1)
    graph.op("MatMul", graph.blocks(flat, budget), graph.weights("head", size.d_model, size.classes), output="logits")
    pixels = InputSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 8, 8))
    target = folder / name / str(version)
    target.mkdir(parents=True)
    return _write(
        graph,
        target,
        (pixels,),
        (OutputSpec(name="logits", dtype="float32", shape=("batch", size.classes)),),
        labels=tuple(f"class {i}" for i in range(size.classes)),
        image=ImageSpec(
            input="pixel_values",
            resize=ResizeSpec(height=8, width=8),
            rescale=1 / 255,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
    )


def manifest_of(**fields: object) -> Manifest:
    """Make a manifest of what the test is about; the rest is of no matter."""
    none = {"sha256": "0" * 64, "bytes": 0}
    files = [MODEL_FILE] + ["tokenizer.json"] * ("tokenizer" in fields)
    rest = {
        "format_version": 1,
        "name": "model",
        "version": 1,
        "created_by": "tests/support/artifacts.py",
        "source": Source(kind="onnx_file", name="none", digest="sha256:" + "0" * 64),
        "mode": "exact",
        "files": dict.fromkeys(files, none),
        "budget_input": None,
        "blocks": (_block_plan(Size(), 0, ("batch",)),),
        "quality": None,
    }
    return Manifest.model_validate({**rest, **fields})


_MASK = InputSpec(name="attention_mask", dtype="int64", shape=("batch", "sequence"), role="mask", pad=0)


def _write(
    graph: _Graph,
    target: Path,
    inputs: tuple[InputSpec, ...],
    outputs: tuple[OutputSpec, ...],
    tokenizer: TokenizerSpec | None = None,
    labels: tuple[str, ...] | None = None,
    image: ImageSpec | None = None,
) -> Path:
    rows: Axes = ("batch", "sequence") if "sequence" in inputs[0].shape else ("batch",)
    blocks = tuple(_block_plan(graph.size, index, rows) for index in range(graph.size.blocks))
    values = [_value(i.name, i.dtype, i.shape) for i in inputs] + [_value("budget", "float32", ("batch",))]
    results = [_value(o.name, o.dtype, o.shape) for o in outputs]
    results += [_value(b.active_output, "int32", rows) for b in blocks]
    # The budget's default: an initializer of the same name makes an input optional.
    graph.constant("budget", np.ones(1, np.float32))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "small", values, results, graph.constants),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("lazyneuron", 1)],
        ir_version=10,
    )
    onnx.save(model, target / MODEL_FILE)
    manifest = Manifest(
        format_version=1,
        name=target.parent.name,
        version=int(target.name),
        created_by="tests/support/artifacts.py",
        source=Source(kind="onnx_file", name="random weights", digest="sha256:" + "0" * 64),
        task="classification",
        mode="exact",
        files={path.name: digest(path) for path in sorted(target.iterdir())},
        inputs=inputs,
        outputs=outputs,
        budget_input="budget",
        blocks=blocks,
        quality=None,
        tokenizer=tokenizer,
        image=image,
        labels=labels,
    )
    (target / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2))
    return target


def _value(name: str, dtype: str, shape: Axes) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def _block_plan(size: Size, index: int, rows: Axes) -> BlockPlan:
    share = size.density
    density = Density(
        rows=1000, mean=share, p50=share, p90=share, p95=share, p99=share, never_active=0.0
    )  # by construction
    up, down = 2 * size.d_model, 2 * size.d_model
    return BlockPlan(
        name=f"block_{index}",
        operator="SparseDown",
        mode="exact",
        activation="relu",
        d_model=size.d_model,
        d_ff=size.d_ff,
        d_out=size.d_model,
        top_k=size.top_k,
        density=density,
        flops=BlockFlops(dense_per_row=size.d_ff * (up + down), per_candidate=up, per_active=down),
        rows=rows,
        active_output=f"block_{index}.active",
    )


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
