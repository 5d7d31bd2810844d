"""From a checkpoint's folder to an answer, each head held to what transformers' pipeline says of the same folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import lazyneuron
from lazyneuron.engine.heads import answers
from lazyneuron.exporters.sources.families import family_of
from tests.support import checkpoints

TOLERANCE = 1e-4  # of a probability: the graph's own error is in it
LABELS = {0: "cat", 1: "dog", 2: "hat"}
TEXT = "The lazy neurons sleep."


def exported(folder: Path, model_type: str, task: str | None = None) -> Any:
    family = family_of(model_type)
    if family is None or family.head("", task) is None:
        pytest.skip(f"this version reads no {model_type} for {task or 'anything'}")
    return lazyneuron.load(lazyneuron.export(folder, folder / "models" / "made").path)


def pipeline(task: str, folder: Path) -> Any:
    return transformers.pipeline(task, model=str(folder), device="cpu")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 201, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_labels_that_may_all_be_right(tmp_path):
    problem = "multi_label_classification"
    checkpoints.bert(tmp_path, "ForSequenceClassification", id2label=LABELS, problem_type=problem)
    model = exported(tmp_path, "bert")
    assert model.manifest.problem == "multi_label"
    answer = model.predict(TEXT).answer
    expected = pipeline("text-classification", tmp_path)(TEXT, top_k=None)
    assert list(answer.labels) == [e["label"] for e in expected]
    assert [c.score for c in answer.candidates] == pytest.approx([e["score"] for e in expected], abs=TOLERANCE)


def test_the_words_for_a_mask(tmp_path):
    checkpoints.bert(tmp_path, "ForMaskedLM")
    prediction = exported(tmp_path, "bert").predict("The lazy [MASK] sleep.")
    expected = pipeline("fill-mask", tmp_path)("The lazy [MASK] sleep.")
    (mask,) = prediction.answer.masks
    assert [c.label for c in mask.candidates] == [e["token_str"] for e in expected]
    assert [c.score for c in mask.candidates] == pytest.approx([e["score"] for e in expected], abs=TOLERANCE)
    assert prediction.labels == (expected[0]["token_str"],)
    assert mask.span == (9, 15)


def test_the_class_of_an_image(tmp_path, image):
    checkpoints.vit(tmp_path, id2label=LABELS)
    model = exported(tmp_path, "vit")
    assert model.manifest.notes[1:] == ()
    expected = pipeline("image-classification", tmp_path)(str(image))
    answer = model.predict(image).answer
    assert list(answer.labels) == [e["label"] for e in expected]
    assert [c.score for c in answer.candidates] == pytest.approx([e["score"] for e in expected], abs=TOLERANCE)


def test_the_objects_in_an_image(tmp_path, image):
    checkpoints.detr(tmp_path, id2label=LABELS)
    model = exported(tmp_path, "detr", "object-detection")
    answer = model.predict(image).read(top=100)[0]
    assert isinstance(answer, answers.Detections)
    expected = pipeline("object-detection", tmp_path)(str(image), threshold=0.5)
    expected.sort(key=lambda e: -e["score"])
    assert len(answer.objects) == len(expected) > 0
    assert sorted(answer.labels) == sorted(e["label"] for e in expected)
    assert [o.score for o in answer.objects] == pytest.approx([e["score"] for e in expected], abs=TOLERANCE)
    boxes = np.array([list(e["box"].values()) for e in expected])
    nearest = np.abs(np.array([o.box for o in answer.objects])[:, None] - boxes).max(-1).min(1)
    assert nearest.max() <= 1.01, "the pipeline gives whole pixels, cut off"


def test_the_first_word_of_an_encoder_decoder(tmp_path):
    model = checkpoints.t5(tmp_path)
    answer = exported(tmp_path, "t5", "seq2seq").predict(TEXT).answer
    ids = torch.tensor([checkpoints.word_pieces().encode(TEXT).ids])
    with torch.no_grad():
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, -1]
    scores, places = logits.softmax(-1).topk(5)
    assert [c.id for c in answer.candidates] == places.tolist()
    assert [c.score for c in answer.candidates] == pytest.approx(scores.tolist(), abs=TOLERANCE)
