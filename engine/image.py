"""Image files to the pixels that a model takes, by Pillow: the arithmetic of transformers' own processors."""

import math
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import ImageSpec, ResizeSpec
from lazyneuron.engine.errors import InputError, one_line
from lazyneuron.engine.origins import Picture
from lazyneuron.engine.requests import Array

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "MAX_PIXELS", "ImageEncoder", "target_size"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is decoded: Pillow's other decoders are seldom used, and each is one more thing that a stranger can feed."""
MAX_PIXELS = 50_000_000
"""A larger image is refused before it is decoded: a file of some kilobytes can hold gigabytes of pixels."""

_MAX_SIDE = 16_384  # of a resized image: a strip one pixel high must not become one of millions
_Pixels = NDArray[np.uint8]


class ImageEncoder:
    """Makes a model's input of an image file.

    Parameters
    ----------
    spec
        What is done to the image.
    """

    def __init__(self, spec: ImageSpec) -> None:
        self._spec = spec

    def encode(self, content: bytes) -> tuple[dict[str, Array], Picture]:
        """Return the input for one image, float32 [1, channels, height, width], and the image's size.

        The image is turned as its EXIF data says. Of an animation the first frame is taken.

        Raises
        ------
        InputError
            If it is no image, broken, of a kind that is not decoded, or too large; or if Pillow is not installed.
        """
        image = _decoded(content, "L" if self._spec.channels == "L" else "RGB", self._spec.input)
        pixels = self._pixels(image)
        return {self._spec.input: pixels[None]}, Picture(image.height, image.width)

    def _pixels(self, image: "Image") -> Array:
        spec = self._spec
        if spec.resize is not None:
            image = _resized(image, spec.resize)
        pixels: _Pixels = np.asarray(image)
        pixels = pixels.reshape(image.height, image.width, -1)
        if spec.channels == "BGR":
            pixels = pixels[..., ::-1]
        if spec.crop is not None:
            pixels = _cropped(pixels, *spec.crop)
        # float64 for the product and float32 after it, as transformers has it.
        scaled = pixels if spec.rescale is None else np.multiply(pixels, spec.rescale, dtype=np.float64)
        values = scaled.astype(np.float32)
        if spec.mean is not None and spec.std is not None:
            values -= np.asarray(spec.mean, np.float32)
            values /= np.asarray(spec.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def target_size(resize: ResizeSpec, height: int, width: int) -> tuple[int, int]:
    """Return the height and width that an image is resized to, rounded as transformers rounds them."""
    if resize.height is not None and resize.width is not None:
        return resize.height, resize.width
    if resize.max_height is not None and resize.max_width is not None:
        scale = min(resize.max_height / height, resize.max_width / width)
        return int(height * scale), int(width * scale)
    assert resize.shortest_edge is not None
    short, long = min(height, width), max(height, width)
    edge: float = resize.shortest_edge
    if resize.longest_edge is not None and long / short * edge > resize.longest_edge:
        edge = resize.longest_edge * short / long
    if short == round(edge):
        return height, width
    # The short edge is rounded where the long one's limit decides, and the long one always cut.
    sides = round(edge), int(edge * long / short)
    return sides if height <= width else (sides[1], sides[0])


def _decoded(content: bytes, mode: str, tensor: str) -> "Image":
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        expected = f"a tensor named {tensor}, or Pillow beside the model: pip install 'lazyneuron[image]'"
        raise InputError("image", got="an image file", expected=expected) from None
    most = f"at most {MAX_PIXELS:,} pixels"
    try:
        image: Image.Image = Image.open(BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise InputError("image", got=f"{image.width} × {image.height} pixels", expected=most)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image if image.mode == mode else image.convert(mode)  # a copy is hundreds of megabytes at worst
    except InputError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, far above ours
        raise InputError("image", got=f"{len(content)} bytes that hold far more pixels", expected=most) from error
    except Exception as error:  # each of Pillow's decoders has its own
        reason = "" if isinstance(error, UnidentifiedImageError) else f" that do not decode ({one_line(error, 120)})"
        expected = f"an image file: {', '.join(FORMATS)}"
        raise InputError("image", got=f"{len(content)} bytes{reason}", expected=expected) from error


def _resized(image: "Image", resize: ResizeSpec) -> "Image":
    from PIL import Image

    height, width = target_size(resize, image.height, image.width)
    if not 0 < min(height, width) <= max(height, width) <= _MAX_SIDE:
        got = f"{image.width} × {image.height} pixels, which become {width} × {height}"
        raise InputError("image", got=got, expected=f"sides of 1 to {_MAX_SIDE} after resizing")
    return image.resize((width, height), Image.Resampling[resize.resample.upper()])


def _cropped(pixels: _Pixels, height: int, width: int) -> _Pixels:
    """Return the middle of [height, width, channels] pixels; what lies beyond them is black."""
    for axis, size in enumerate((height, width)):
        there = pixels.shape[axis]
        if size > there:
            before = math.ceil((size - there) / 2)
            margins = [(0, 0)] * pixels.ndim
            margins[axis] = (before, size - there - before)
            pixels = np.pad(pixels, margins)
        else:
            first = (there - size) // 2
            pixels = pixels.take(range(first, first + size), axis)
    return pixels
