"""Images against transformers' own processors, and what is refused."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio
from transformers.image_utils import get_image_size_for_max_height_width

from lazyneuron.engine.artifact import ImageSpec, ResizeSpec
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.image import MAX_PIXELS, ImageEncoder, target_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
SIDES = st.integers(1, 90)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def content(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


@settings(deadline=None, max_examples=150)
@given(
    st.tuples(SIDES, SIDES),
    st.one_of(
        st.none(),
        st.fixed_dictionaries({"height": SIDES, "width": SIDES}),
        st.fixed_dictionaries({"shortest_edge": SIDES}),
        st.fixed_dictionaries({"shortest_edge": SIDES, "longest_edge": SIDES}),
    ),
    st.sampled_from(sorted(FILTERS)),
    st.one_of(st.none(), st.tuples(SIDES, SIDES)),
    st.booleans(),
    st.booleans(),
)
def test_pixels_are_transformers(size, resize, resample, crop, rescales, normalises):
    theirs = PilBackend(
        do_resize=resize is not None,
        size=resize,
        resample=FILTERS[resample],
        do_center_crop=crop is not None,
        crop_size=crop and {"height": crop[0], "width": crop[1]},
        do_rescale=rescales,
        rescale_factor=1 / 255,
        do_normalize=normalises,
        image_mean=MEAN,
        image_std=STD,
    )
    spec = ImageSpec(
        input="pixel_values",
        resize=resize and ResizeSpec(**resize, resample=resample),
        crop=crop,
        rescale=1 / 255 if rescales else None,
        mean=MEAN if normalises else None,
        std=STD if normalises else None,
    )
    image = picture(*size)
    if resize and 0 in target_size(spec.resize, *size):
        with pytest.raises(InputError, match="expected sides of 1 to"):
            ImageEncoder(spec).encode(content(image))
        return
    inputs, origin = ImageEncoder(spec).encode(content(image))
    expected = theirs(images=image, return_tensors="np")["pixel_values"]
    assert inputs["pixel_values"].dtype == np.float32
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(inputs["pixel_values"], expected, rtol=0, atol=1e-5 * scale)
    assert (origin.height, origin.width) == size


@given(*[st.integers(1, 3000)] * 4)
def test_sizes_are_transformers(height, width, one, two):
    image = np.broadcast_to(np.uint8(0), (3, height, width))
    assert target_size(ResizeSpec(shortest_edge=one), height, width) == get_resize_output_image_size(
        image, one, default_to_square=False, input_data_format="channels_first"
    )
    assert target_size(ResizeSpec(shortest_edge=one, longest_edge=two), height, width) == get_size_with_aspect_ratio(
        (height, width), one, two
    )
    assert target_size(ResizeSpec(max_height=one, max_width=two), height, width) == (
        get_image_size_for_max_height_width((height, width), one, two)
    )


def test_channels_in_another_order_and_grey():
    image = picture(5, 4)
    pixels = np.asarray(image, np.float32)
    swapped = ImageEncoder(ImageSpec(input="x", channels="BGR")).encode(content(image))[0]["x"]
    np.testing.assert_array_equal(swapped[0], pixels[..., ::-1].transpose(2, 0, 1))
    grey = ImageEncoder(ImageSpec(input="x", channels="L")).encode(content(image))[0]["x"]
    np.testing.assert_array_equal(grey[0, 0], np.asarray(image.convert("L"), np.float32))


MODES_LACKING = {("WEBP", "1"), ("JPEG", "P"), ("PPM", "P"), ("WEBP", "P")}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_kinds_of_files(kind, mode):
    image = picture(9, 8).convert(mode)
    file = content(image.convert("L") if (kind, mode) in MODES_LACKING else image, kind)
    found = ImageEncoder(ImageSpec(input="x")).encode(file)[0]["x"]
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), np.float32)
    np.testing.assert_array_equal(found[0], expected.transpose(2, 0, 1))


def test_a_photograph_taken_sideways_is_turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoder = ImageEncoder(ImageSpec(input="x"))
    inputs, origin = encoder.encode(content(picture(10, 20), exif=exif))
    assert inputs["x"].shape == (1, 3, 20, 10)
    assert (origin.height, origin.width) == (20, 10)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "image: got 0 bytes; expected an image file: JPEG, PNG"),
        (b"%PDF-1.7 no image", "image: got 17 bytes; expected an image file"),
        (content(picture(40, 40))[:900], "image: got 900 bytes that do not decode ("),
        (content(picture(40, 40), "JPEG")[:400], "image: got 400 bytes that do not decode ("),
        (bomb(10_000, 5_001), f"image: got 10000 × 5001 pixels; expected at most {MAX_PIXELS:,} pixels"),
        (bomb(10, 2**31 - 1), "image: got 65 bytes that hold far more pixels; expected at most 50,000,000 pixels"),
        (content(picture(4, 4), "ICO"), "expected an image file"),
    ],
)
def test_what_is_no_image_is_refused(file, says):
    with pytest.raises(InputError) as caught:
        ImageEncoder(ImageSpec(input="x")).encode(file)
    assert says in str(caught.value)
    assert caught.value.field == "image"


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read(data):
    file = bytearray(content(picture(20, 20), data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]))))
    for place in data.draw(st.lists(st.integers(0, len(file) - 1), min_size=1, max_size=20)):
        file[place] = data.draw(st.integers(0, 255))
    try:
        inputs, _ = ImageEncoder(ImageSpec(input="x", resize=ResizeSpec(height=4, width=4))).encode(bytes(file))
    except InputError:
        return
    assert inputs["x"].shape == (1, 3, 4, 4)


def test_a_strip_does_not_become_a_wall():
    spec = ImageSpec(input="x", resize=ResizeSpec(shortest_edge=224))
    with pytest.raises(InputError, match=r"1000 × 1 pixels, which become 224000 × 224; expected sides of 1 to 16384"):
        ImageEncoder(spec).encode(content(picture(1, 1000)))


def test_without_pillow_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        InputError, match=r"a tensor named x, or Pillow beside the model: pip install 'lazyneuron\[image"
    ):
        ImageEncoder(ImageSpec(input="x")).encode(b"")


@pytest.mark.parametrize(
    "wrong",
    [
        {"resize": {}},
        {"resize": {"height": 3}},
        {"resize": {"height": 3, "width": 3, "shortest_edge": 3}},
        {"resize": {"longest_edge": 3}},
        {"resize": {"shortest_edge": 0}},
        {"mean": (0.5, 0.5, 0.5)},
        {"mean": (0.5,), "std": (0.5,)},
        {"crop": (3,)},
    ],
)
def test_numbers_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValidationError):
        ImageSpec.model_validate({"input": "x", **wrong})
