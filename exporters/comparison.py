"""Rewriting the graph and proving on held-out data that nothing which matters has changed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import onnx

from lazyneuron.engine.artifact import Quality
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.blocks import Block
from lazyneuron.exporters.examples import Example
from lazyneuron.exporters.masks import mask_for, real_rows
from lazyneuron.exporters.measure import Measured
from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.progress import Progress
from lazyneuron.exporters.quality import Runs, compare, worst
from lazyneuron.exporters.quantization import Quantized, quantize
from lazyneuron.exporters.recording import Recording
from lazyneuron.exporters.rewrite import SparseGraph, rewrite
from lazyneuron.exporters.sessions import Reopened, open_model

__all__ = ["TOLERANCE", "Comparison", "Expected", "compare_graphs", "count_shares", "has_argmax"]

TOLERANCE = 1e-4
"""The largest error of an output, relative to its largest entry, that counts as no difference."""
_WRONG = 1e-2
"""An exact rewrite that is this far off is a defect of ours."""
_ARGMAX = {
    "text-generation",
    "seq2seq",
    "text-classification",
    "token-classification",
    "fill-mask",
    "image-classification",
    "audio-classification",
    "automatic-speech-recognition",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The sparse graph, and how it compares with the dense one.

    Attributes
    ----------
    graph
        Its weights may lie in the scratch folder.
    quantize
        `int8` where products outside the operators were quantised.
    candidates
        For each block the share of neurons whose up projection was computed on the held-out examples.
    active
        Likewise the share whose down projection was.
    """

    graph: SparseGraph
    quality: Quality
    quantize: Literal["none", "int8"]
    candidates: tuple[float, ...]
    active: tuple[float, ...]
    notes: tuple[str, ...]


class Expected:
    """What the dense graph gives on the held-out examples, recorded once for all comparisons.

    Parameters
    ----------
    measured
        The dense graph; it is closed whenever it has been recorded.
    scratch
        A folder for the recordings.
    """

    def __init__(self, measured: Measured, scratch: Path) -> None:
        self.measured, self.scratch = measured, scratch
        self.whole = self._record(measured.session, measured.held_out_examples, "expected")
        self.ragged = self.record_ragged(measured.session, "expected-ragged")

    def record_ragged(self, session: Reopened, name: str) -> Recording:
        """Return what a graph gives on held-out examples of unequal lengths."""
        return self._record(session, partial(_ragged, self.measured), name)

    def _record(self, session: Reopened, examples: Callable[[], Iterator[Example]], name: str) -> Recording:
        outputs = [spec.name for spec in self.measured.dense.outputs]
        return Recording(session, outputs, lambda: self.measured.feeds(examples()), self.scratch / name)


def compare_graphs(
    measured: Measured,
    expected: Expected,
    choices: Mapping[str, Choice],
    scratch: Path,
    *,
    int8: bool = False,
    progress: Progress,
) -> Comparison:
    """Rewrite the dense graph and compare outputs on the held-out examples.

    At most one graph's weights are in memory at a time, packed as ONNX Runtime and the operators have them.

    Padding rows get budget 0, unless that changes the outputs of real rows, which a graph can do that mixes rows
    without regard to its mask.

    Parameters
    ----------
    int8
        Whether to quantise the rest; the float graph is compared first, and the quantised one is what is returned.

    Raises
    ------
    CheckpointError
        If the outputs differ though nothing was cut off.
    """
    dense = measured.dense
    notes: list[str] = []
    skipping = any(choice.mode != "exact" for choice in choices.values())
    lossy = any(choice.lossy for choice in choices.values())
    masked = any(mask_for(dense.inputs, choice.block.rows) for choice in choices.values())
    progress.step("running the dense graph on what was held out")
    expected.whole.prepare()
    if masked:
        expected.ragged.prepare()
    progress.step("rewriting the graph")
    graph = rewrite(dense.model, dense.inputs, choices, use_masks=True)
    session = open_model(graph.model, scratch / "sparse.onnx", sparse=True)
    onnx.checker.check_model(str(scratch / "sparse.onnx"))  # by path: a model over 2 GB is no single message
    if masked:
        progress.step("checking that padding does not matter")
        error = _ragged_error(measured, expected.ragged, session)
        if error > TOLERANCE:  # by the padding, or by what the choices cut off
            plain = rewrite(dense.model, dense.inputs, choices, use_masks=False)
            session.close()
            unmasked = open_model(plain.model, scratch / "unmasked.onnx", sparse=True)
            computed = expected.record_ragged(unmasked, "unmasked-ragged")
            computed.prepare()
            error = _ragged_error(measured, computed, session)
            if error > TOLERANCE:
                session.close()
                graph, session = plain, unmasked
                notes.append(
                    f"Padding rows are computed, since skipping them changes real rows' outputs by {error:.1e}: "
                    "the model lets padding reach them."
                )
    progress.step("comparing with the dense graph")
    quality = _against_dense(expected, session)
    notes += _notes(measured, quality, lossy=lossy)
    kind: Literal["none", "int8"] = "none"
    if int8:
        progress.step("quantising the rest of the graph")
        session.close()
        quantized = quantize(graph.model, scratch)
        graph = replace(graph, model=quantized.model)
        kind = "int8" if quantized.products else "none"
        session = open_model(graph.model, scratch / "quantized.onnx", sparse=True)
        progress.step("comparing with the dense graph")
        float_error, quality = worst(quality), _against_dense(expected, session)
        notes += _int8_notes(quantized, choices, before=float_error, after=worst(quality))
    notes += [_why_exact(choice.block) for choice in choices.values() if skipping and _cannot_skip(choice)]
    active, candidates = count_shares(measured, graph, session, choices)
    return Comparison(graph, quality, kind, candidates, active, tuple(notes))


def _ragged_error(measured: Measured, first: Recording, second: Reopened) -> float:
    """Return how far two graphs are apart on held-out examples of unequal lengths, over real rows."""
    dense = measured.dense
    return worst(compare(first.beside(second), second, dense.inputs, dense.outputs, argmax=False))


def _against_dense(expected: Expected, session: Reopened) -> Quality:
    """Compare a graph with the dense one on the held-out examples."""
    dense = expected.measured.dense
    pairs = expected.whole.beside(session)
    return compare(pairs, session, dense.inputs, dense.outputs, argmax=has_argmax(dense.task))


def has_argmax(task: str) -> bool:
    """Say whether the largest entry of a task's outputs has a meaning, as in logits."""
    return task in _ARGMAX


def _cannot_skip(choice: Choice) -> bool:
    """Say whether a block is exact because no other mode fits it; else its cost decided."""
    return choice.mode == "exact" and not choice.block.screenable and not choice.threshold


def _why_exact(block: Block) -> str:
    if block.signed:
        return f"{block.name} is exact: its activation is {block.activation}, and the certified screen is for relu."
    return f"{block.name} is exact: the model reshapes its neurons between the projections."


def count_shares(
    measured: Measured, graph: SparseGraph, session: Runs, choices: Mapping[str, Choice]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the shares of each block's neurons that are active and that are computed, over held-out real rows."""
    outputs = [*graph.active_outputs, *graph.candidates_outputs]
    blocks = [choice.block for choice in choices.values()] * 2
    counted = {name: block for name, block in zip(outputs, blocks, strict=True) if name is not None}
    found, neurons = dict.fromkeys(counted, 0), dict.fromkeys(counted, 0)
    for feed in measured.feeds(measured.held_out_examples()):
        for (name, block), counts in zip(counted.items(), session.run(list(counted), feed), strict=True):
            real = real_rows(measured.dense.inputs, block.rows, feed)
            of_rows = counts if real is None else counts[real]
            found[name] += int(of_rows.sum())
            neurons[name] += of_rows.size * block.d_ff
    shares = tuple(1.0 if name is None else found[name] / max(neurons[name], 1) for name in outputs)
    return shares[: len(choices)], shares[len(choices) :]


def _notes(measured: Measured, quality: Quality, *, lossy: bool) -> list[str]:
    notes = []
    error = worst(quality)
    if error > _WRONG and not lossy:
        raise CheckpointError(
            f"{measured.dense.source.name}: the sparse graph's outputs differ from the dense one's by {error:.1e} of "
            "the largest entry, though nothing was cut off; please report this"
        )
    if error > TOLERANCE and not lossy:
        notes.append(
            f"Outputs differ by up to {error:.1e} of their largest entry, more than the {TOLERANCE:g} aimed at."
        )
    if measured.examples.name is None:
        notes.append(
            "No calibration data was given: densities and figures are from random input, "
            "and say little about real input."
        )
    elif measured.held_out == measured.examples.count:
        notes.append("There were too few examples to hold some out: the comparison is on the calibration examples.")
    return notes


def _int8_notes(quantized: Quantized, choices: Mapping[str, Choice], *, before: float, after: float) -> Iterator[str]:
    if not quantized.products:
        yield "Nothing was quantised: no product with constant float32 weights is left outside the sparse operators."
        return
    yield (
        f"{quantized.products} products outside the sparse operators are int8: outputs differ from the dense float32 "
        f"graph's by up to {after:.1e} of their largest entry, without that by {before:.1e}; and they depend a little "
        "on what a request is batched with, since ONNX Runtime gives a batch's activations one scale."
    )
    if quantized.kept:
        yield f"{quantized.kept} products stay as they were: their weights are not float32 matrices."
    exact = [choice for choice in choices.values() if choice.mode == "exact"]
    if exact:
        yield (
            f"The up projections of {len(exact)} exact blocks are among them: which neurons fire is what the int8 "
            "product says."
        )


def _ragged(measured: Measured) -> Iterator[Example]:
    """Give the held-out examples, every second one cut to half its length, so that there is padding to look at."""
    for i, example in enumerate(measured.held_out_examples()):
        yield example if i % 2 == 0 else _halved(measured, example)


def _halved(measured: Measured, example: Example) -> Example:
    lengths = {
        axis: size
        for spec in measured.dense.inputs
        for axis, size in zip(spec.shape[1:], example[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    half = {}
    for spec in measured.dense.inputs:
        cut = [slice((lengths[a] + 1) // 2) if isinstance(a, str) else slice(None) for a in spec.shape[1:]]
        half[spec.name] = example[spec.name][tuple(cut)]
    return half
