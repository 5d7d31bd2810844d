"""Which image processors are carried as numbers, and which are named as more than that."""

import json
import re

import pytest

from lazyneuron.engine.artifact import InputSpec
from lazyneuron.exporters.sources.image_processor import image_spec


def pixels(*sides: int | str, channels: int = 3) -> tuple[InputSpec, ...]:
    return (InputSpec(name="pixel_values", dtype="float32", shape=("batch", channels, *sides)),)


def spec(folder, sides, **config):
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return image_spec(folder, pixels(*sides))


@pytest.mark.parametrize(
    ("kind", "sides", "config", "expected"),
    [
        ("ViT", (32, 40), {"size": {"height": 32, "width": 40}}, {"resize": (32, 40), "filter": "bilinear"}),
        ("CLIP", (224, 224), {}, {"crop": (224, 224), "filter": "bicubic"}),
        (
            "Beit",
            (32, 32),
            {"size": 36, "crop_size": 32, "do_center_crop": True},
            {"resize": (36, 36), "crop": (32, 32)},
        ),
        ("ConvNext", (64, 64), {"size": {"shortest_edge": 64}, "crop_pct": 0.8}, {"crop": (64, 64)}),
        ("ConvNext", (384, 384), {"size": {"shortest_edge": 384}}, {"resize": (384, 384)}),
        ("Detr", ("height", "width"), {"size": {"shortest_edge": 80, "longest_edge": 100}}, {}),
        (
            "MobileViT",
            (32, 32),
            {"size": {"shortest_edge": 36}, "crop_size": 32},
            {"channels": "BGR", "crop": (32, 32)},
        ),
    ],
)
def test_taken(tmp_path, kind, sides, config, expected):
    found, notes = spec(tmp_path, sides, image_processor_type=f"{kind}ImageProcessor", **config)
    assert notes == ()
    there = {
        "resize": (found.resize.height, found.resize.width),
        "filter": found.resize.resample,
        "crop": found.crop,
        "channels": found.channels,
    }
    assert there == there | expected


@pytest.mark.parametrize(
    ("sides", "config", "says"),
    [
        ((24, 24), {"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor.* does more than its numbers say"),
        ((24, 24), {"image_processor_type": "NoSuchProcessor"}, "does not work on preprocessor_config.json"),
        (("height", "width"), {"image_processor_type": "DPTImageProcessor", "size": 32, "keep_aspect_ratio": True,
         "ensure_multiple_of": 8}, "does more than its numbers say"),
        (("height", "width"), {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 30,
         "longest_edge": 50}, "pad_size": {"height": 60, "width": 60}}, r"\(it pads images\)"),
    ],
)  # fmt: skip
def test_not_taken(tmp_path, sides, config, says):
    found, notes = spec(tmp_path, sides, **config)
    assert found is None
    (note,) = notes
    assert re.search(says, note), note
    assert note.endswith("so images go in as tensors that the caller makes.")


def test_no_processor_and_no_image(tmp_path):
    assert image_spec(tmp_path, pixels(24, 24)) == (
        None,
        ("The checkpoint has no preprocessor_config.json, so images go in as tensors that the caller makes.",),
    )
    ids = InputSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"), role="tokens")
    assert image_spec(tmp_path, (ids,)) == (None, ())
