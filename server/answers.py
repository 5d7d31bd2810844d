"""Between answers and the wire's messages, both ways: the server writes them and the client reads them; and as JSON."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, get_args

import numpy as np

from lazyneuron.engine.artifact import Problem
from lazyneuron.engine.heads import answers
from lazyneuron.engine.origins import Span
from lazyneuron.protocol import prediction_pb2 as pb

__all__ = ["answer_document", "read_answer", "write_answer"]

_PROBLEMS: tuple[Problem, ...] = get_args(Problem)


def answer_document(answer: answers.Answer) -> dict[str, Any]:
    """Return an answer as JSON has it: its kind, its labels and its fields."""
    if isinstance(answer, answers.Embedding):
        fields: dict[str, Any] = {"vector": answer.vector.tolist(), "norm": answer.norm, "pooling": answer.pooling}
    else:
        fields = asdict(answer)
    return {"kind": answer.kind, "labels": list(answer.labels)} | fields


def write_answer(answer: answers.Answer) -> pb.Answer:
    """Return an answer as a message."""
    match answer:
        case answers.Classification():
            message = pb.Classification(candidates=_written(answer.candidates), problem=answer.problem)
            return pb.Answer(classification=message)
        case answers.TokenLabels():
            labels = [
                pb.TokenLabel(piece=t.piece, span=_written_span(t.span), candidates=_written(t.candidates))
                for t in answer.tokens
            ]
            return pb.Answer(token_labels=pb.TokenLabels(tokens=labels))
        case answers.FilledMasks():
            masks = [
                pb.FilledMask(position=m.position, span=_written_span(m.span), candidates=_written(m.candidates))
                for m in answer.masks
            ]
            return pb.Answer(filled_masks=pb.FilledMasks(masks=masks))
        case answers.NextToken():
            return pb.Answer(next_token=pb.NextToken(candidates=_written(answer.candidates)))
        case answers.Embedding():
            return pb.Answer(embedding=pb.Embedding(vector=answer.vector.tolist(), pooling=answer.pooling))
        case answers.Detections():
            height, width = answer.size or (0, 0)
            objects = [_written_detection(found) for found in answer.objects]
            return pb.Answer(detections=pb.Detections(objects=objects, height=height, width=width))


def read_answer(message: pb.Answer) -> answers.Answer | None:
    """Return a message's answer; None if it is of a kind that this version does not know."""
    match message.WhichOneof("kind"):
        case "classification":
            problem = message.classification.problem
            known = next((p for p in _PROBLEMS if p == problem), _PROBLEMS[0])
            return answers.Classification(_read(message.classification.candidates), known)
        case "token_labels":
            return answers.TokenLabels(
                tuple(
                    answers.TokenLabel(t.piece, _read_span(t), _read(t.candidates)) for t in message.token_labels.tokens
                )
            )
        case "filled_masks":
            return answers.FilledMasks(
                tuple(
                    answers.FilledMask(m.position, _read_span(m), _read(m.candidates))
                    for m in message.filled_masks.masks
                )
            )
        case "next_token":
            return answers.NextToken(_read(message.next_token.candidates))
        case "embedding":
            vector = np.asarray(message.embedding.vector, np.float32)
            return answers.Embedding(vector, "model" if message.embedding.pooling == "model" else "mean")
        case "detections":
            found = message.detections
            objects = tuple(
                answers.Detection(o.label, o.id, o.score, (o.left, o.top, o.right, o.bottom)) for o in found.objects
            )
            return answers.Detections(objects, (found.height, found.width) if found.height else None)
        case _:
            return None


def _written(candidates: Iterable[answers.Candidate]) -> list[pb.Candidate]:
    return [pb.Candidate(label=c.label, id=c.id, score=c.score) for c in candidates]


def _read(candidates: Iterable[pb.Candidate]) -> tuple[answers.Candidate, ...]:
    return tuple(answers.Candidate(c.label, c.id, c.score) for c in candidates)


def _written_span(span: Span | None) -> pb.Span | None:
    return None if span is None else pb.Span(start=span[0], end=span[1])


def _read_span(message: pb.TokenLabel | pb.FilledMask) -> Span | None:
    return (message.span.start, message.span.end) if message.HasField("span") else None


def _written_detection(found: answers.Detection) -> pb.Detection:
    left, top, right, bottom = found.box
    return pb.Detection(
        label=found.label, id=found.id, score=found.score, left=left, top=top, right=right, bottom=bottom
    )
