"""One request from the page: run as any other over HTTP, and answered with what each of its tokens used."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.block_rows import BlockRows
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.heads.answers import Answer as Reading
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import made_inputs, made_lengths
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.page.words import count, nice_top, operations, seconds, share, whole_share
from lazyneuron.server.rest.bodies import parse_json
from lazyneuron.server.rest.predict_body import read_predict
from lazyneuron.server.scheduler import Answer
from lazyneuron.server.services.predict import tensor_message

__all__ = ["Trial", "read_trial", "tell"]

_ROWS = 128
"""Rows that are told of; a long text has thousands."""
_NUMBERS = 6
_LENGTH = 8
_STEPS = 9
"""Shades of a token."""


@dataclass(frozen=True, slots=True)
class Row:
    """A token, or another row: in words, with the share of all blocks' neurons that it used, and of each block's.

    `shade` is 0 for the least share among the request's rows to 9 for the most.
    """

    word: str
    share: str
    shade: int
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What the page shows of one request, in words.

    Attributes
    ----------
    model, version
        Which answered.
    readings
        What the outputs say; empty where the model's task has no such reading.
    outputs
        Each output's name, shape and first numbers, where there is no reading.
    facts
        Names and values: FLOPs saved, times.
    blocks
        Each block's name, density, candidates and exported density, and where the first and the last are on a bar.
    chosen
        Whether some block computes some neurons' up projection only.
    top
        Where bars end.
    rows, columns
        Rows, and the blocks that they are rows of.
    left_out
        How many rows are not told of.
    kind
        What a row is.
    """

    model: str
    version: int
    readings: tuple[Reading, ...]
    outputs: tuple[tuple[str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    blocks: tuple[tuple[str, str, str, str, float, float], ...]
    chosen: bool
    top: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    left_out: int
    kind: str


def read_trial(manifest: Manifest, body: bytes) -> pb.PredictRequest:
    """Return the request in a body: that of `POST /v1/models/NAME:predict`, or `{"example": true}` for a made one.

    Raises
    ------
    InputError
        Naming the field, what was got and what was expected.
    """
    document = parse_json(body)
    if document.get("example") is not True:
        (request,) = read_predict(manifest, body, 1)
        return request
    _, lone = made_lengths(manifest, _LENGTH)
    arrays = made_inputs(manifest.inputs, lone)
    request = pb.PredictRequest(model_name=manifest.name, model_version=manifest.version, top=5)
    request.inputs.tensors.extend(tensor_message(name, array) for name, array in arrays.items())
    budget = document.get("budget", 1.0)
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise InputError("budget", got=repr(budget)[:40], expected="a number")
    request.budget = budget
    return request


def tell(model: Model, request: pb.PredictRequest, answer: Answer, readings: tuple[Reading, ...]) -> Trial:
    """Say what came out of a request that asked for its rows' counts.

    Parameters
    ----------
    model, answer, readings
        As `services.predict.run` gives them.
    request
        What was asked.
    """
    prediction = answer.prediction
    sparsity = prediction.sparsity
    saved = 1 - sparsity.flops_executed / sparsity.flops_dense if sparsity.flops_dense else 0.0
    facts = [
        ("Share of the MLP’s FLOPs saved", share(saved)),
        ("FLOPs", f"{operations(sparsity.flops_executed)} of {operations(sparsity.flops_dense)}"),
        ("Neurons active", share(sparsity.density)),
        ("Waited, then ran", f"{seconds(answer.queue_seconds)}, then {seconds(answer.inference_seconds)}"),
    ]
    if answer.budget < 1:
        facts.append(("Budget", f"{share(answer.budget)} of the exported k"))
    told = _told(prediction.rows)
    outputs = () if readings else tuple(_output(name, array) for name, array in prediction.outputs.items())
    blocks, top = _blocks(model.manifest, answer)
    rows, left_out = _rows(told, request.text)
    return Trial(
        model=model.name,
        version=model.version,
        readings=readings,
        outputs=outputs,
        facts=tuple(facts),
        blocks=blocks,
        chosen=any(block.candidates_output is not None for block in model.manifest.blocks),
        top=top,
        rows=rows,
        columns=tuple(counts.name for counts in told),
        left_out=left_out,
        kind="token" if told and told[0].tokens else "row",
    )


def _blocks(manifest: Manifest, answer: Answer) -> tuple[tuple[tuple[str, str, str, str, float, float], ...], str]:
    pairs = list(zip(manifest.blocks, answer.prediction.sparsity.blocks, strict=True))
    top = nice_top(max(max(plan.density.mean, counts.density) for plan, counts in pairs))
    told = tuple(
        (
            counts.name,
            share(counts.density),
            share(counts.candidates / counts.neurons) if counts.neurons else share(0),
            share(plan.density.mean),
            round(100 * counts.density / top, 2),
            round(min(98, 100 * plan.density.mean / top), 2),
        )
        for plan, counts in pairs
    )
    return told, whole_share(top)


def _told(rows: Sequence[BlockRows]) -> list[BlockRows]:
    """Return the blocks whose rows are told of: those that are the text's tokens, or else those like the first."""
    with_tokens = [counts for counts in rows if counts.tokens]
    return with_tokens or [counts for counts in rows if counts.active.shape == rows[0].active.shape]


def _rows(told: Sequence[BlockRows], text: str) -> tuple[tuple[Row, ...], int]:
    """Return the real rows, with the share of neurons that each used; and how many more there are."""
    if not told:
        return (), 0
    real = np.flatnonzero(told[0].real.ravel())
    shown = real[:_ROWS]
    used: NDArray[np.float64] = np.stack([counts.active.ravel()[shown] / counts.d_ff for counts in told])
    widths = np.array([counts.d_ff for counts in told], np.float64)
    overall = widths @ used / widths.sum()
    least, most = (overall.min(), overall.max()) if overall.size else (0.0, 0.0)
    rows = tuple(
        Row(
            _word(told[0], text, int(place)),
            share(float(whole)),
            round(_STEPS * (whole - least) / (most - least)) if most > least else 0,
            tuple(share(float(value)) for value in column),
        )
        for place, whole, column in zip(shown, overall, used.T, strict=True)
    )
    return rows, len(real) - len(shown)


def _word(counts: BlockRows, text: str, place: int) -> str:
    """Return a token as it stands in the text, or as its piece where it is not in it; another row's number."""
    if not counts.tokens:
        return count(place + 1)
    token = counts.tokens[place]
    word = text[slice(*token.span)].strip() if token.span is not None else ""
    return word or token.piece


def _output(name: str, array: NDArray[np.generic]) -> tuple[str, str, str]:
    first = array.ravel()[:_NUMBERS].tolist()
    numbers = ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in first)
    return name, " × ".join(map(str, array.shape)), numbers + (", …" if array.size > _NUMBERS else "")
