"""ONNX graphs of one MLP block each, `lazyneuron.engine.block_graphs` as models, and their int8 forms."""

import tempfile
from pathlib import Path

import onnx

from lazyneuron.engine import block_graphs
from lazyneuron.engine.planted import PlantedBlock
from lazyneuron.exporters.bench.int8 import quantize

__all__ = ["certified", "dense", "down", "exact", "gate", "predictor", "to_int8"]


def dense(block: PlantedBlock, *, gated: bool = False) -> onnx.ModelProto:
    """Return the dense block."""
    return onnx.load_model_from_string(block_graphs.dense(block, gated=gated))


def down(block: PlantedBlock, weights: str = "float32") -> onnx.ModelProto:
    """Return SparseDown alone: its input is `pre` [rows, d_ff]."""
    return onnx.load_model_from_string(block_graphs.down(block, weights))


def exact(block: PlantedBlock, weights: str = "float32") -> onnx.ModelProto:
    """Return SparseDown behind a float32 MatMul."""
    return onnx.load_model_from_string(block_graphs.exact(block, weights))


def certified(block: PlantedBlock, weights: str = "float32", miss_probability: float = 0.0) -> onnx.ModelProto:
    """Return SparseMLP in mode certified."""
    return onnx.load_model_from_string(block_graphs.certified(block, weights, miss_probability))


def predictor(
    block: PlantedBlock, weights: str = "float32", *, rank: int = 64, recall: float = 0.99
) -> onnx.ModelProto:
    """Return SparseMLP in mode predictor behind its two MatMuls, which are dynamic int8 with int8 weights, too."""
    model = onnx.load_model_from_string(block_graphs.predictor(block, weights, rank=rank, recall=recall))
    return to_int8(model) if weights == "int8" else model


def gate(block: PlantedBlock, weights: str = "float32") -> onnx.ModelProto:
    """Return SparseMLP in mode gate, behind its dense float32 gate projection; the gate has the planted density."""
    return onnx.load_model_from_string(block_graphs.gate(block, weights))


def to_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantise a model's MatMuls as ONNX Runtime does for dynamic int8."""
    with tempfile.TemporaryDirectory(prefix="lazyneuron-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        quantize(before, after)
        return onnx.load(after)
