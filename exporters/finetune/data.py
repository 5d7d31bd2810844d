"""Documents to examples: encoded, packed for language models, a part held out."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.finetune.documents import read_documents
from lazyneuron.exporters.finetune.models import Models
from lazyneuron.exporters.finetune.settings import FinetuneSettings
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources.hugging_face import token
from lazyneuron.exporters.sources.tokenizer import tokenizer_of

__all__ = ["MOST_HELD_OUT", "Data", "Example", "collate", "read_data"]

Example = dict[str, NDArray[np.generic]]
"""One example: each input without its batch axis."""

MOST_HELD_OUT = 512
_DEFAULT_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on and what is measured on.

    Attributes
    ----------
    train, held_out
        Examples.
    length
        The most tokens of an example.
    mask_token
        The id of what stands for a word to fill in.
    pad_token
        The id that fills up.
    """

    train: Sequence[Example]
    held_out: Sequence[Example]
    length: int
    mask_token: int | None
    pad_token: int

    def batch(self, step: int, size: int, seed: int) -> list[Example]:
        """Return a step's examples: every one is taken once, in a new random order, before any is taken again."""
        n = len(self.train)
        places = range(step * size, (step + 1) * size)
        return [self.train[_order(n, seed, place // n)[place % n]] for place in places]


_orders: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    key = (n, seed, epoch)
    if key not in _orders:
        if len(_orders) > 1:
            _orders.pop(next(iter(_orders)))  # a batch spans two epochs at most
        _orders[key] = np.random.default_rng([seed, epoch]).permutation(n)
    return _orders[key]


def read_data(models: Models, settings: FinetuneSettings) -> Data:
    """Read a person's files.

    Raises
    ------
    CalibrationError
        If a file is missing or empty, or does not fit the model.
    """
    encoder = _Encoder(models, settings)
    documents = [pieces for path in settings.data for pieces in encoder.documents(path)]
    if settings.validation is not None:
        held_out = [example for pieces in encoder.documents(settings.validation) for example in encoder.cut(pieces)]
        chosen = documents
    else:
        chosen, held_out = _hold_out(documents, encoder, settings)
    train = encoder.pack(chosen)
    for name, examples in (("to train on", train), ("to measure on", held_out)):
        if not examples:
            files = ", ".join(map(str, settings.data))
            raise CalibrationError(f"{files}: too little text: no example {name}, of up to {encoder.length} tokens")
    return Data(train, held_out[:MOST_HELD_OUT], encoder.length, encoder.mask_token, encoder.pad_token)


def _hold_out(documents: list[Any], encoder: "_Encoder", settings: FinetuneSettings) -> tuple[list[Any], list[Example]]:
    """Hold out whole documents, drawn at random; of a single one its end."""
    if len(documents) == 1 and encoder.packs:
        ids = documents[0]
        edge = len(ids) - max(min(int(len(ids) * settings.held_out), MOST_HELD_OUT * encoder.length), encoder.length)
        return [ids[: max(edge, 0)]], encoder.cut(ids[max(edge, 0) :])
    order = np.random.default_rng([settings.seed, 2**31]).permutation(len(documents))
    wanted = max(1, int(len(documents) * settings.held_out))
    held_out: list[Example] = []
    taken = set()
    for i in order[:wanted]:
        taken.add(int(i))
        held_out += encoder.cut(documents[i])
        if len(held_out) >= MOST_HELD_OUT:
            break
    return [document for i, document in enumerate(documents) if i not in taken], held_out


class _Encoder:
    """Makes examples of documents, as the task wants them."""

    def __init__(self, models: Models, settings: FinetuneSettings) -> None:
        opened, config = models.opened, models.config
        self._task = opened.head.task
        self._model = models.student
        self._folder = opened.folder
        self.packs = self._task == "text-generation"
        longest = min(opened.family.max_lengths(config).values(), default=None)
        self.length = min(n for n in (settings.length or _DEFAULT_LENGTH, longest) if n is not None)
        if settings.length is not None and longest is not None and settings.length > longest:
            raise CalibrationError(f"length is {settings.length}; expected at most {longest}, the model's positions")
        self._eos = token(config, "eos_token_id")
        self.pad_token = token(config, "pad_token_id") or 0
        found = tokenizer_of(opened.folder, longest)
        self._tokenizer = None
        self.mask_token = None
        if found is not None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_str(found.content)
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            if found.mask_token is not None:
                self.mask_token = self._tokenizer.token_to_id(found.mask_token)
        self._images: Callable[[Path], NDArray[np.generic]] | None = None

    def documents(self, path: Path) -> Iterator[Any]:
        """Give a file's documents, encoded: token ids where they are packed, else examples."""
        count = 0
        for where, document in read_documents(path, whole=self.packs):
            count += 1
            yield self._ids(document, where) if self.packs else self._example(document, where)
        if count == 0:
            raise CalibrationError(f"{path}: it holds no examples")

    def cut(self, document: Any) -> list[Example]:  # noqa: ANN401 (token ids or an example)
        """Return a document's examples, none of which reaches over its edges."""
        if not self.packs:
            return [document]
        parts = (document[i : i + self.length] for i in range(0, len(document), self.length))
        return [_of_ids(part) for part in parts if len(part) > 1]

    def pack(self, documents: Sequence[Any]) -> list[Example]:
        """Return examples: of token ids in a row with ends of text between, full sequences."""
        if not self.packs:
            return list(documents)
        end = [] if self._eos is None else [np.array([self._eos], np.int32)]
        parts = [part for document in documents for part in (document, *end)]
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        if len(ids) < self.length:
            return [_of_ids(ids)] if len(ids) > 1 else []
        count = len(ids) // self.length
        return [_of_ids(row) for row in ids[: count * self.length].reshape(count, self.length)]

    def _ids(self, document: dict[str, Any], where: str) -> NDArray[np.int32]:
        if "text" not in document:
            raise CalibrationError(
                f'{where}: got keys {sorted(document)}; a language model learns from {{"text": "…"}}'
            )
        return np.array(self._encode(document["text"], where, special=False), np.int32)

    def _encode(self, text: str, where: str, *, special: bool = True) -> list[int]:
        if self._tokenizer is None:
            raise CalibrationError(f'{where}: got "text", and the checkpoint has no tokenizer; give "inputs"')
        if special:
            self._tokenizer.enable_truncation(self.length)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        if special and not ids:
            raise CalibrationError(f"{where}: the text gives no token")
        return ids

    def _example(self, document: dict[str, Any], where: str) -> Example:
        if "inputs" in document:
            return self._given(document["inputs"], where)
        if "image" in document:
            return {"pixel_values": self._pixels(document["image"], where)}
        example = _of_ids(np.array(self._encode(document["text"], where), np.int32))
        if self._task == "seq2seq":
            if not isinstance(document.get("target"), str):
                raise CalibrationError(f'{where}: an encoder–decoder needs a "target" beside "text"')
            example["labels"] = np.array(self._encode(document["target"], where), np.int32)
        return example

    def _given(self, inputs: dict[str, Any], where: str) -> Example:
        known = inspect.signature(self._model.forward).parameters
        if unknown := [name for name in inputs if name not in known]:
            raise CalibrationError(f"{where}: no input {unknown[0]!r}; expected some of {', '.join(known)}")
        try:
            example = {name: np.asarray(value) for name, value in inputs.items()}
        except ValueError as error:
            raise CalibrationError(f"{where}: {error}") from error
        for name, array in example.items():
            if array.dtype.kind not in "iufb":
                raise CalibrationError(f"{where}: input {name}: got {array.dtype}; expected numbers")
            example[name] = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return example

    def _pixels(self, path: Path, where: str) -> NDArray[np.generic]:
        if self._images is None:
            self._images = _image_reader(self._folder, where)
        try:
            return self._images(path)
        except Exception as error:
            raise CalibrationError(f"{where}: {path}: not readable as an image ({error})") from error


def _image_reader(folder: Path, where: str) -> Callable[[Path], NDArray[np.generic]]:
    from PIL import Image

    with quiet():
        from transformers import AutoImageProcessor

        try:
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise CalibrationError(
                f'{where}: got "image", and the checkpoint has no image processor; give "inputs": pixel_values'
            ) from error

    def read(path: Path) -> NDArray[np.generic]:
        with Image.open(path) as image:
            made = processor(images=image.convert("RGB"), return_tensors="np")
        return np.asarray(made["pixel_values"][0], np.float32)

    return read


def _of_ids(ids: NDArray[np.int32]) -> Example:
    return {"input_ids": ids}


def collate(examples: Sequence[Example], pad_token: int) -> dict[str, torch.Tensor]:
    """Return a batch: token ids are filled up on the right, and an attention mask says where.

    Raises
    ------
    CalibrationError
        If other inputs differ in shape.
    """
    batch: dict[str, torch.Tensor] = {}
    for name in examples[0]:
        arrays = [example[name] for example in examples]
        if name in {"input_ids", "labels"}:
            fill = pad_token if name == "input_ids" else -100
            batch[name] = _filled(arrays, fill)
            if name == "input_ids" and "attention_mask" not in examples[0]:
                batch["attention_mask"] = _filled([np.ones(len(array), np.int64) for array in arrays], 0)
        elif name in {"attention_mask", "token_type_ids"}:
            batch[name] = _filled(arrays, 0)
        elif len({array.shape for array in arrays}) > 1:
            shapes = sorted({array.shape for array in arrays})
            raise CalibrationError(f"input {name} has the shapes {shapes[0]} and {shapes[1]}; expected one")
        else:
            batch[name] = torch.from_numpy(np.stack(arrays))
    return batch


def _filled(arrays: Sequence[NDArray[np.generic]], fill: int) -> torch.Tensor:
    made = np.full((len(arrays), max(map(len, arrays))), fill, np.int64)
    for row, array in zip(made, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(made)
