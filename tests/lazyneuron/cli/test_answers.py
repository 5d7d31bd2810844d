"""Answers as lines for a person and as JSON for a program."""

import json

import numpy as np
import pytest

from lazyneuron.cli.answers import document, lines
from lazyneuron.engine.heads import answers

BEST = (answers.Candidate("good", 1, 0.75), answers.Candidate("so so", 0, 0.25))
EMBEDDING = answers.Embedding(np.array([3, 4] + [0] * 20, np.float32), "mean")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (answers.Classification(BEST), ["   75.00%  good", "   25.00%  so so"]),
        (answers.Classification((answers.Candidate("0", 0, -1.5),), "regression"), ["  0: -1.5"]),
        (answers.NextToken((answers.Candidate(" the", 4, 1.0),)), ["  100.00%  ' the'"]),
        (
            answers.FilledMasks((answers.FilledMask(3, (5, 11), BEST), answers.FilledMask(4, None, BEST[:1]))),
            [
                "  mask 1 at characters 5–11:",
                "   75.00%  'good'",
                "   25.00%  'so so'",
                "  mask 2:",
                "   75.00%  'good'",
            ],
        ),
        (
            answers.TokenLabels((answers.TokenLabel("lazy", (0, 4), BEST), answers.TokenLabel("##s", None, BEST[1:]))),
            ["  'lazy'  0–4  good    75.00%", "  '##s'        so so   25.00%"],
        ),
        (
            answers.Detections((answers.Detection("cat", 0, 0.9, (1.0, 2.5, 30.0, 40.0)),), (480, 640)),
            ["   90.00%  cat  1 2.5 30 40  pixels"],
        ),
        (answers.Detections((), None), ["  no object is more probable than not"]),
        (EMBEDDING, ["  22 numbers, the mean over its rows, of length 5.0000: 3.0000 4.0000" + " 0.0000" * 6 + " …"]),
    ],
)
def test_lines(answer, expected):
    assert lines(answer) == expected


def test_many_tokens_are_cut_short_on_the_terminal():
    tokens = tuple(answers.TokenLabel("a", (i, i + 1), BEST) for i in range(50))
    assert len(lines(answers.TokenLabels(tokens))) == 41
    assert lines(answers.TokenLabels(tokens))[-1] == "  … and 10 more"
    assert len(document(answers.TokenLabels(tokens))["tokens"]) == 50


def test_documents_are_json():
    found = json.loads(json.dumps(document(answers.Classification(BEST, "multi_label"))))
    assert found == {
        "kind": "classification",
        "labels": ["good", "so so"],
        "candidates": [{"label": "good", "id": 1, "score": 0.75}, {"label": "so so", "id": 0, "score": 0.25}],
        "problem": "multi_label",
    }
    found = json.loads(json.dumps(document(EMBEDDING)))
    assert (found["kind"], len(found["vector"]), found["norm"], found["pooling"]) == ("embedding", 22, 5.0, "mean")
