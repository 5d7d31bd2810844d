"""Objects against transformers' own reading of the same logits and boxes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import ConditionalDetrImageProcessor, DetrImageProcessor

from lazyneuron.engine.heads.detection import detect

LABELS = ("cat", "dog", "hat")
SIZE = (480, 640)


def outputs(seed: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (17, classes)).astype(np.float32), rng.uniform(0, 1, (17, 4)).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("processor", "classes"), [(DetrImageProcessor, len(LABELS) + 1), (ConditionalDetrImageProcessor, len(LABELS))]
)
def test_objects_are_transformers(processor, classes, seed):
    logits, boxes = outputs(seed, classes)
    given = SimpleNamespace(logits=torch.from_numpy(logits[None]), pred_boxes=torch.from_numpy(boxes[None]))
    (expected,) = processor().post_process_object_detection(given, 0.5, target_sizes=[SIZE])
    found = detect(logits, boxes, LABELS, SIZE, top=1000)
    order = np.argsort(-expected["scores"].numpy(), kind="stable")
    assert len(found.objects) == len(order) > 0
    assert [o.label for o in found.objects] == [LABELS[i] for i in expected["labels"].numpy()[order]]
    np.testing.assert_allclose([o.score for o in found.objects], expected["scores"].numpy()[order], atol=1e-6)
    np.testing.assert_allclose([o.box for o in found.objects], expected["boxes"].numpy()[order], atol=1e-3)
    assert found.size == SIZE


def test_without_an_image_boxes_are_shares_of_it():
    logits, boxes = outputs(0, 4)
    shares, pixels = (detect(logits, boxes, LABELS, size, top=3) for size in (None, SIZE))
    assert shares.size is None
    np.testing.assert_allclose(
        np.multiply([o.box for o in shares.objects], [640, 480, 640, 480]), [o.box for o in pixels.objects]
    )
    assert len(pixels.objects) == 3


def test_nothing_is_found_where_nothing_is_likely():
    logits = np.zeros((5, 4), np.float32)
    assert detect(logits, np.zeros((5, 4), np.float32), LABELS, SIZE, top=5).objects == ()
