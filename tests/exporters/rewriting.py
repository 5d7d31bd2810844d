"""Rewriting a file's blocks and holding the result to the dense file."""

from pathlib import Path

import numpy as np
import onnx

from lazyneuron.exporters.blocks import Ledger
from lazyneuron.exporters.calibration import BlockCounts
from lazyneuron.exporters.plan import choose
from lazyneuron.exporters.predictors import Predictor
from lazyneuron.exporters.rewrite import SparseGraph, rewrite
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.settings import ExportSettings
from tests.exporters import graphs


def rewrite_file(
    path: Path,
    *,
    top_k: int | None = None,
    use_masks: bool = True,
    mode: str = "exact",
    predictor: Predictor | None = None,
) -> tuple[Path, Ledger, SparseGraph]:
    """Rewrite all blocks of a dense file into a sparse one beside it, which is checked."""
    dense, ledger = graphs.read(path)
    blocks = list(ledger.blocks.values())
    counts = [BlockCounts.empty(block.d_model, block.d_ff) for block in blocks]
    choices = dict(zip(ledger.blocks, choose(blocks, counts, ExportSettings(top_k=top_k, mode=mode)), strict=True))
    if predictor is not None:
        choices = {key: choice.predicted(predictor) for key, choice in choices.items()}
    graph = rewrite(dense.model, dense.inputs, choices, use_masks=use_masks)
    sparse = path.with_suffix(".sparse.onnx")
    save(graph.model, sparse)
    onnx.checker.check_model(str(sparse))
    return sparse, ledger, graph


def assert_agrees(path: Path, feed: dict[str, np.ndarray], *, tolerance: float, blocks: int = 1) -> Path:
    """Rewrite, and compare every output of the dense file; return the sparse file."""
    sparse, ledger, _ = rewrite_file(path)
    assert len(ledger.blocks) == blocks, ledger.skipped
    assert sparse_nodes(sparse) == blocks
    expected, actual = graphs.run(path, feed), graphs.run(sparse, feed)
    for name, array in expected.items():
        graphs.assert_close(actual[name], array, tolerance=tolerance)
    return sparse


def sparse_nodes(path: Path) -> int:
    return sum(n.domain == "lazyneuron" for n in onnx.load(path, load_external_data=False).graph.node)
