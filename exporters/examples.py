"""Calibration examples: read from a person's file one at a time, or drawn at random where there is none."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.artifact import InputSpec
from lazyneuron.engine.errors import CalibrationError, InputError
from lazyneuron.engine.image import ImageEncoder
from lazyneuron.engine.origins import image_content
from lazyneuron.engine.probe import made_input
from lazyneuron.exporters.sources.dense import DenseModel
from lazyneuron.exporters.targets import DECODER, encode_target

__all__ = [
    "ENCODING",
    "Array",
    "Example",
    "ExampleSet",
    "document_encoder",
    "parse_line",
    "random_example",
    "random_examples",
    "read_examples",
]

Array = NDArray[np.generic]
Example = dict[str, Array]
"""One example: each input without its batch axis."""

_Encoder = Callable[[str, str], Example]
"""Makes an example of a text, or of an image file's name; the second string says where it stands."""

_OPTIONAL = {"mask", "token_types"}
_RANDOM_EXAMPLES = 64
ENCODING = "utf-8-sig"
"""Of JSON Lines: UTF-8, with or without a byte order mark."""


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Examples that can be gone through more than once, without being held in memory.

    Attributes
    ----------
    count
        How many there are.
    name
        The file's name; None where they are drawn at random.
    read
        Gives them from the first on.
    """

    count: int
    name: str | None
    read: Callable[[], Iterator[Example]]


def read_examples(path: Path, dense: DenseModel) -> ExampleSet:
    """Open a calibration file: `.npz`, or JSON Lines of `{"text": …}`, `{"image": file}` or `{"inputs": {…}}`.

    Beside a text an encoder–decoder's lines may have its `"target"`.

    Raises
    ------
    CalibrationError
        If the file is missing or empty; while it is read, if a line does not fit the model, with its number.
    """
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file")
    return _read_npz(path, dense) if path.suffix == ".npz" else _read_lines(path, dense)


def random_examples(dense: DenseModel, *, count: int = _RANDOM_EXAMPLES, seed: int = 0) -> ExampleSet:
    """Draw examples: token ids uniformly, other numbers from the normal distribution, ragged lengths up to `length`."""

    def read() -> Iterator[Example]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            yield random_example(dense, {}, rng)

    return ExampleSet(count, None, read)


def random_example(dense: DenseModel, lengths: dict[str, int], rng: np.random.Generator) -> Example:
    """Draw one example; axes that `lengths` does not name get a length drawn at random, which is noted there."""
    return {spec.name: _draw(spec, dense, lengths, rng) for spec in dense.inputs}


def _draw(spec: InputSpec, dense: DenseModel, lengths: dict[str, int], rng: np.random.Generator) -> Array:
    for axis in spec.shape[1:]:
        if isinstance(axis, str) and axis not in lengths:
            longest = min(dense.length, dense.max_lengths.get(axis, dense.length))
            lengths[axis] = int(rng.integers(max(1, longest // 2), longest + 1))
    return made_input(spec, [lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape[1:]], rng)


def _read_npz(path: Path, dense: DenseModel) -> ExampleSet:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise CalibrationError(f"{path}: a single array; expected an .npz file of arrays by input name")
            arrays: Example = {name: file[name] for name in file.files if name not in {"label", "labels"}}
    except CalibrationError:
        raise
    except Exception as error:  # zipfile's and zlib's own among them
        raise CalibrationError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise CalibrationError(f"{path}: {strange[0]} in it is no array; expected .npy members")
    sizes = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if not sizes or min(sizes.values()) == 0:
        raise CalibrationError(f"{path}: it holds no examples")
    if len(set(sizes.values())) > 1:
        raise CalibrationError(f"{path}: its arrays differ in how many examples they have: {sizes}")
    count = next(iter(sizes.values()))

    def read() -> Iterator[Example]:
        for i in range(count):
            where = f"{path}: example {i}"
            yield _checked({name: array[i] for name, array in arrays.items()}, dense, where)

    return ExampleSet(count, path.name, read)


def _read_lines(path: Path, dense: DenseModel) -> ExampleSet:
    try:
        with path.open(encoding=ENCODING) as file:
            count = sum(1 for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not readable as text ({error}); expected JSON Lines or .npz") from error
    if count == 0:
        raise CalibrationError(f"{path}: it holds no examples")
    encode = document_encoder(dense, path.parent)

    def read() -> Iterator[Example]:
        with path.open(encoding=ENCODING) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}: line {number}"
                    yield encode(parse_line(line, where), where)

    return ExampleSet(count, path.name, read)


def parse_line(line: str, where: str) -> object:
    """Return the JSON document in a line.

    Raises
    ------
    CalibrationError
        If it is none; `where` says which line it is.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: not JSON ({error})") from error


def document_encoder(dense: DenseModel, folder: Path) -> Callable[[object, str], Example]:
    """Return what makes an example of a line's document; its second argument says where that stands.

    Parameters
    ----------
    dense
        The model, with its tokenizer or image preprocessor.
    folder
        Where the names of image files start from.
    """
    encode, pixels = _text_encoder(dense), _image_encoder(dense, folder)

    def example(document: object, where: str) -> Example:
        if isinstance(document, dict) and isinstance(document.get("text"), str):
            target = encode_target(dense, document.get("target"), where)
            return _checked(encode(document["text"], where) | target, dense, where)
        if isinstance(document, dict) and isinstance(document.get("image"), str):
            return _checked(pixels(document["image"], where), dense, where)
        if isinstance(document, dict) and isinstance(document.get("inputs"), dict):
            return _checked(document["inputs"], dense, where)
        got = f"keys {sorted(document)}" if isinstance(document, dict) else type(document).__name__
        expected = '{"text": "…"}, {"image": "FILE"} or {"inputs": {name: list}}'
        raise CalibrationError(f"{where}: got {got}; expected {expected}")

    return example


def _image_encoder(dense: DenseModel, folder: Path) -> _Encoder:
    """Return what makes an example of an image file, whose name is as seen from the calibration file's folder."""
    made = None if dense.image is None else ImageEncoder(dense.image)

    def encode(name: str, where: str) -> Example:
        if made is None:
            names = ", ".join(spec.name for spec in dense.inputs)
            raise CalibrationError(
                f'{where}: got "image", and it is not known what is done to one; give "inputs": {names}'
            )
        try:
            inputs, _ = made.encode(image_content(folder / name))
        except InputError as error:
            raise CalibrationError(f"{where}: {error}") from error
        return {spec: array[0] for spec, array in inputs.items()}

    return encode


def _text_encoder(dense: DenseModel) -> _Encoder:
    if dense.tokenizer is None:

        def refuse(text: str, where: str) -> Example:  # noqa: ARG001 (an encoder's signature)
            names = ", ".join(spec.name for spec in dense.inputs)
            raise CalibrationError(f'{where}: got "text", and the checkpoint has no tokenizer; give "inputs": {names}')

        return refuse
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(dense.tokenizer.content)
    tokenizer.no_padding()
    tokenizer.enable_truncation(dense.tokenizer.max_length)

    def encode(text: str, where: str) -> Example:
        encoding = tokenizer.encode(text)
        if not encoding.ids:
            raise CalibrationError(f"{where}: the text gives no token")
        by_role = {"tokens": encoding.ids, "mask": encoding.attention_mask, "token_types": encoding.type_ids}
        wanted = (s for s in dense.inputs if s.role in by_role and not s.name.startswith(DECODER))
        return {s.name: np.asarray(by_role[s.role], s.dtype) for s in wanted}

    return encode


def _checked(given: dict[str, Any], dense: DenseModel, where: str) -> Example:
    """Return an example with every input, checked and of the model's types."""
    known = {spec.name for spec in dense.inputs}
    if unknown := sorted(set(given) - known):
        raise CalibrationError(f"{where}: no input {unknown[0]!r}; expected {sorted(known)}")
    lengths: dict[str, int] = {}
    example = {s.name: _fit(s, given[s.name], lengths, where) for s in dense.inputs if s.name in given}
    for spec in dense.inputs:
        if spec.name not in example:
            example[spec.name] = _left_out(spec, lengths, where)
    for axis, size in lengths.items():
        if size > dense.max_lengths.get(axis, size):
            raise CalibrationError(f"{where}: {axis} is {size}; expected at most {dense.max_lengths[axis]}")
    return example


def _fit(spec: InputSpec, value: Any, lengths: dict[str, int], where: str) -> Array:  # noqa: ANN401 (from JSON)
    what = f"{where}: input {spec.name}"
    try:
        array = np.asarray(value)
        fits = np.can_cast(array.dtype, spec.dtype, "same_kind")
        if not fits and array.dtype.kind in "iu" and np.dtype(spec.dtype).kind == "b":
            fits = True
    except ValueError as error:
        raise CalibrationError(f"{what}: {error}") from error
    expected = list(spec.shape[1:])
    if array.ndim == len(spec.shape) and array.shape[0] == 1:
        array = array[0]
    if not fits:
        raise CalibrationError(f"{what}: got {array.dtype}; expected {spec.dtype}")
    if array.ndim != len(expected):
        raise CalibrationError(f"{what}: got shape {list(array.shape)}; expected {expected} (one example)")
    for axis, size in zip(expected, array.shape, strict=True):
        if size == 0 or (size != axis if isinstance(axis, int) else lengths.setdefault(axis, size) != size):
            raise CalibrationError(f"{what}: got shape {list(array.shape)}; expected {expected} ({lengths})")
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if (spec.minimum is not None and low < spec.minimum) or (spec.maximum is not None and high > spec.maximum):
        raise CalibrationError(f"{what}: got {low} to {high}; expected {spec.minimum:g} to {spec.maximum:g}")
    with np.errstate(over="ignore"):
        cast = array.astype(spec.dtype)
    if cast.dtype.kind == "f" and not np.isfinite(cast).all():
        raise CalibrationError(f"{what}: got {cast[~np.isfinite(cast)][0]}; expected finite numbers")
    return cast


def _left_out(spec: InputSpec, lengths: dict[str, int], where: str) -> Array:
    unknown = [axis for axis in spec.shape[1:] if isinstance(axis, str) and axis not in lengths]
    if spec.role not in _OPTIONAL or unknown:
        raise CalibrationError(f"{where}: input {spec.name} is missing")
    shape = [lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape[1:]]
    return np.full(shape, 1 if spec.role == "mask" else 0, spec.dtype)
