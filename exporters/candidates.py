"""How many candidates the certified screen leaves in each block, on held-out examples."""

from collections.abc import Mapping
from pathlib import Path

from lazyneuron.exporters.comparison import count_shares
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.plan import Choice, choose
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.rewrite import rewrite
from lazyneuron.exporters.sessions import open_model
from lazyneuron.exporters.settings import ExportSettings

__all__ = ["certified_choices", "screened"]


def certified_choices(measured: Measured) -> dict[str, Choice]:
    """Return the blocks that the certified screen is for, with the screen that calibration fits."""
    chosen = choose(list(measured.ledger.blocks.values()), measured.counts, ExportSettings(mode="certified"))
    by_key = zip(measured.ledger.blocks, chosen, strict=True)
    return {key: choice for key, choice in by_key if choice.mode == "certified"}


def screened(
    measured: Measured, certified: Mapping[str, Choice], scratch: Path, progress: Progress
) -> dict[str, float]:
    """Run certified blocks over the held-out examples.

    Parameters
    ----------
    certified
        Choices of mode `certified`, by the name of the block's output.

    Returns
    -------
    By the same names, the share of neurons whose up projection is computed.
    """
    if not certified:
        return {}
    progress.step("counting the certified screen's candidates")
    graph = rewrite(measured.dense.model, measured.dense.inputs, certified, use_masks=True)
    measured.session.close()  # one graph's weights at a time
    session = open_model(graph.model, scratch / "candidates.onnx", sparse=True)
    _, candidates = count_shares(measured, graph, session, certified)
    return dict(zip(certified, candidates, strict=True))
