"""Blocks whose pre-activations are low-rank but for a little, and rows of them."""

from pathlib import Path

import numpy as np

from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.predictors.predictor import Spread
from lazyneuron.exporters.predictors.rows import BlockRows
from tests.exporters import graphs

D, F, OUT = 24, 160, 12


def weights(rank: int, noise: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a block of which about one neuron in twelve is active, on rows of the normal distribution."""
    rng = np.random.default_rng(seed)
    up = rng.standard_normal((D, rank)) @ rng.standard_normal((rank, F)) / np.sqrt(rank)
    up += noise * rng.standard_normal((D, F))
    bias = -1.4 * np.linalg.norm(up, axis=0)
    parts = {"up": up, "up_bias": bias, "down": rng.standard_normal((F, OUT)), "down_bias": rng.standard_normal(OUT)}
    return {name: part.astype(np.float32) for name, part in parts.items()}


def inputs(count: int, length: int = 20, seed: int = 1) -> np.ndarray:
    """Draw x [count, length, D] whose channels differ in mean and spread."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, length, D)) * np.geomspace(0.5, 2, D) + np.linspace(-0.3, 0.3, D)
    return x.astype(np.float32)


def save(folder: Path, constants: dict[str, np.ndarray]) -> Path:
    """Write the block as a dense ONNX file."""
    shape = (graphs.TensorProto.FLOAT, ["batch", "sequence", D]), (graphs.TensorProto.FLOAT, ["batch", "sequence", OUT])
    return graphs.save(
        folder / "planted.onnx", graphs.plain_nodes(), constants, inputs={"x": shape[0]}, outputs={"y": shape[1]}
    )


def block_of(path: Path) -> Block:
    """Return the only block of a file."""
    (block,) = graphs.read(path)[1].blocks.values()
    return block


def rows_of(x: np.ndarray, constants: dict[str, np.ndarray], held_out: int) -> tuple[BlockRows, Spread]:
    """Return the rows of examples x [examples, length, D] as collecting gives them, and how they are standardised."""
    flat = x.reshape(-1, x.shape[-1])
    used = flat[: held_out * x.shape[1]].astype(np.float64)
    spread = Spread.of(used.sum(axis=0), np.square(used).sum(axis=0), len(used))
    fired = flat @ constants["up"] + constants["up_bias"] > 0
    example = np.repeat(np.arange(len(x), dtype=np.int32), x.shape[1])
    rows = BlockRows(
        spread.standard(flat).astype(np.float16), np.packbits(fired, axis=1), example, held_out, fired.shape[1]
    )
    return rows, spread
