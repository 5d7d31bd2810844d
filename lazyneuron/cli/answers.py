"""Answers as a person reads them on a terminal, and as JSON."""

from collections.abc import Sequence

from lazyneuron.engine.heads.answers import (
    Answer,
    Candidate,
    Classification,
    Detections,
    Embedding,
    FilledMasks,
    NextToken,
    TokenLabels,
)
from lazyneuron.engine.origins import Span
from lazyneuron.server.answers import answer_document as document

__all__ = ["document", "lines"]

_SHOWN = 8  # numbers of an embedding; --json has them all
_ROWS = 40  # tokens or objects; --json has them all


def lines(answer: Answer) -> list[str]:
    """Return an answer as lines of text."""
    match answer:
        case Classification(problem="regression"):
            return [f"  {c.label}: {c.score:.6g}" for c in answer.candidates]
        case Classification():
            return _table([[_percent(c.score), c.label] for c in answer.candidates])
        case NextToken():
            return _words(answer.candidates)
        case FilledMasks():
            return [
                line
                for number, mask in enumerate(answer.masks, 1)
                for line in (f"  mask {number}{_where(mask.span)}:", *_words(mask.candidates))
            ]
        case TokenLabels():
            rows = [[repr(t.piece), _place(t.span), *_best(t.candidates)] for t in answer.tokens[:_ROWS]]
            return _table(rows) + _more(len(answer.tokens))
        case Detections():
            unit = "pixels" if answer.size else "of the image's width and height"
            rows = [
                [_percent(o.score), o.label, " ".join(f"{edge:.4g}" for edge in o.box), unit]
                for o in answer.objects[:_ROWS]
            ]
            return (_table(rows) or ["  no object is more probable than not"]) + _more(len(answer.objects))
        case Embedding():
            shown = " ".join(f"{value:.4f}" for value in answer.vector[:_SHOWN].tolist())
            more = " …" if answer.vector.size > _SHOWN else ""
            pooled = ", the mean over its rows" if answer.pooling == "mean" else ""
            return [f"  {answer.vector.size} numbers{pooled}, of length {answer.norm:.4f}: {shown}{more}"]


def _percent(score: float) -> str:
    return f"{score:7.2%}"


def _words(candidates: Sequence[Candidate]) -> list[str]:
    return _table([[_percent(c.score), repr(c.label)] for c in candidates])  # a space may be a part of a word


def _best(candidates: Sequence[Candidate]) -> list[str]:
    return [text for c in candidates[:1] for text in (c.label, _percent(c.score))]


def _place(span: Span | None) -> str:
    return "" if span is None else f"{span[0]}–{span[1]}"


def _where(span: Span | None) -> str:
    return "" if span is None else f" at characters {_place(span)}"


def _more(count: int) -> list[str]:
    return [f"  … and {count - _ROWS} more"] if count > _ROWS else []


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
