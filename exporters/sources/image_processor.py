"""A Hugging Face folder's image processor as numbers, and the proof that they do what it does."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lazyneuron.engine.artifact import ImageSpec, InputSpec, ResizeSpec
from lazyneuron.engine.errors import InputError, one_line
from lazyneuron.engine.image import ImageEncoder
from lazyneuron.exporters.quiet import quiet

__all__ = ["image_spec"]

TOLERANCE = 1e-5
"""The largest difference of a pixel to transformers' own, in units of the input's largest value."""

_CONFIG = "preprocessor_config.json"
_WITHOUT = "so images go in as tensors that the caller makes"
_SIZES = ((37, 53), (64, 41))
"""Heights and widths of the images that the proof is made with: one wide, one tall, both odd."""
_WARPED_FROM = 384  # ConvNeXt's processor crops below it and warps from it on


def image_spec(folder: Path, inputs: tuple[InputSpec, ...]) -> tuple[ImageSpec | None, tuple[str, ...]]:
    """Return what is done to an image before the model sees it, and a note where that cannot be said in numbers.

    transformers has a processor for each family, and some do more than the numbers in their configuration say. So the
    numbers are tried: on two images they have to give what the processor gives, to `TOLERANCE`, in the shape that the
    model takes.
    """
    pixels = next((spec for spec in inputs if spec.name == "pixel_values" and len(spec.shape) == 4), None)
    if pixels is None:
        return None, ()
    if not (folder / _CONFIG).is_file():
        return None, (f"The checkpoint has no {_CONFIG}, {_WITHOUT}.",)
    try:
        with quiet():
            from transformers import AutoImageProcessor

            processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                folder, local_files_only=True, backend="pil", use_fast=False
            )
            specs = list(_specs(processor, pixels))
            expected = [_theirs(processor, image) for image in _images(pixels)]
    except Exception as error:  # noqa: BLE001 (whatever it is, a model is of use without)
        reason = one_line(error, 200)
        return None, (f"transformers' image processor does not work on {_CONFIG} ({reason}), {_WITHOUT}.",)
    found = next((spec for spec in specs if _same(spec, pixels, expected)), None)
    if found is None:
        return None, (f"{type(processor).__name__} does more than its numbers say, {_WITHOUT}.",)
    return found, ()


def _specs(processor: Any, pixels: InputSpec) -> Iterator[ImageSpec]:  # noqa: ANN401 (a processor of any family)
    """Give what the processor's numbers may mean, the usual meaning first."""

    def on(switch: str, value: str) -> Any:  # noqa: ANN401
        return getattr(processor, value, None) if getattr(processor, switch, None) else None

    mean, std = on("do_normalize", "image_mean"), on("do_normalize", "image_std")
    channels = 1 if pixels.shape[1] == 1 else 3
    common = {
        "input": pixels.name,
        "channels": "L" if channels == 1 else "BGR" if getattr(processor, "do_flip_channel_order", False) else "RGB",
        "rescale": on("do_rescale", "rescale_factor"),
        "mean": None if mean is None else _one_each(mean, channels),
        "std": None if std is None else _one_each(std, channels),
    }
    size, crop = on("do_resize", "size"), on("do_center_crop", "crop_size")
    filter_ = getattr(processor, "resample", None)
    resample = {} if filter_ is None else {"resample": _filter(filter_)}
    resize = None if size is None else {k: size[k] for k in _SIDES if _get(size, k)} | resample
    crop = None if crop is None else (crop["height"], crop["width"])
    edge = None if size is None else _get(size, "shortest_edge")
    if edge is not None and getattr(processor, "crop_pct", None):
        square = (
            {"height": edge, "width": edge}
            if edge >= _WARPED_FROM
            else {"shortest_edge": int(edge / processor.crop_pct)}
        )
        yield ImageSpec.model_validate({**common, "resize": square | resample, "crop": (edge, edge)})
    yield ImageSpec.model_validate({**common, "resize": resize, "crop": crop})


_SIDES = tuple(side for side in ResizeSpec.model_fields if side != "resample")


def _get(size: Any, side: str) -> int | None:  # noqa: ANN401 (a dict, or transformers' own kind of one)
    value = size.get(side) if isinstance(size, dict) else getattr(size, side, None)
    return None if value is None else int(value)


def _filter(value: int) -> str:
    from PIL import Image

    return Image.Resampling(int(value)).name.lower()


def _one_each(values: Any, channels: int) -> tuple[float, ...]:  # noqa: ANN401 (a number, or a list of them)
    return tuple(float(v) for v in (values if isinstance(values, list | tuple) else [values] * channels))


def _images(pixels: InputSpec) -> list[bytes]:
    """Return image files of noise on a slope, so that each filter gives something else."""
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for height, width in _SIZES:
        slope = np.add.outer(np.arange(height), np.arange(width))[..., None] * [1.0, 2.0, 1.5]
        array = (slope + rng.uniform(0, 60, (height, width, 3))).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(array).convert("L" if pixels.shape[1] == 1 else "RGB").save(file, "PNG")
        files.append(file.getvalue())
    return files


def _theirs(processor: Any, content: bytes) -> tuple[bytes, np.ndarray[Any, Any]]:  # noqa: ANN401
    from PIL import Image

    answer = processor(images=Image.open(io.BytesIO(content)), return_tensors="np")
    if not np.all(answer.get("pixel_mask", 1)):
        msg = "it pads images"
        raise ValueError(msg)
    return content, np.asarray(answer["pixel_values"])


def _same(spec: ImageSpec, pixels: InputSpec, expected: list[tuple[bytes, np.ndarray[Any, Any]]]) -> bool:
    for content, theirs in expected:
        try:
            ours = ImageEncoder(spec).encode(content)[0][spec.input]
        except InputError:
            return False
        fits = all(isinstance(axis, str) or axis == size for axis, size in zip(pixels.shape, ours.shape, strict=True))
        if not fits or ours.shape != theirs.shape:
            return False
        if np.abs(ours - theirs).max() > TOLERANCE * max(1.0, float(np.abs(theirs).max())):
            return False
    return True
