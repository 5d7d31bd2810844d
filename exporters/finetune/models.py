"""The dense model and the one that becomes sparse: loading, looking for blocks, writing."""

import copy
import inspect
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lazyneuron.engine.errors import CheckpointError, ConfigurationError
from lazyneuron.exporters.finetune.find import Found, find_blocks
from lazyneuron.exporters.finetune.gates import Gates
from lazyneuron.exporters.finetune.settings import FinetuneSettings
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources import sentences
from lazyneuron.exporters.sources.hugging_face import NOTE, Opened, load, open_folder

__all__ = ["Models", "open_models", "rectified", "stored_type", "write_checkpoint"]

_SMOOTH = ("gelu", "silu", "swish", "mish")
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".bin.index.json")


_SIZES = ("vocab_size", "hidden_size", "num_labels")
"""Of a configuration: what a model's answers are as wide as."""


@dataclass(frozen=True, slots=True)
class Models:
    """The dense model and the one that becomes sparse.

    Attributes
    ----------
    opened
        The checkpoint.
    teacher
        The dense model; never changed.
    student
        The same weights, to be trained.
    config
        The student's configuration.
    blocks
        The student's MLP blocks.
    gates, dense_gates
        What stands before the down projections, of the student's and of the dense model's.
    """

    opened: Opened
    teacher: Any
    student: Any
    config: Any
    blocks: tuple[Found, ...]
    gates: Gates
    dense_gates: Gates

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the fields of an answer that are compared."""
        outputs = self.opened.head.outputs
        return outputs if self.opened.pooling is None else (*outputs, sentences.OUTPUT)


def open_models(checkpoint: str, settings: FinetuneSettings) -> Models:
    """Load a checkpoint and the dense model that it learns from, and find the MLP blocks.

    Raises
    ------
    CheckpointError
        If it cannot be loaded, or has no MLP block that can be trained.
    ConfigurationError
        If the options do not fit it.
    """
    opened = open_folder(checkpoint, settings.task)
    if opened.head.encoder:
        raise CheckpointError(
            f"{checkpoint}: one half of an encoder–decoder cannot be fine-tuned alone, since what is written is the "
            "whole; choose --task seq2seq"
        )
    teacher, own = _load_teacher(checkpoint, opened, settings.teacher)
    if settings.relufy or settings.teacher is not None:
        change = _rectify(checkpoint) if settings.relufy else None
        student, config = load(opened.folder, checkpoint, opened.head, change)
    else:
        student, config = copy.deepcopy(teacher), own
    sizes = [{name: getattr(one, name, None) for name in _SIZES} for one in (own, config)]
    if sizes[0] != sizes[1]:
        raise ConfigurationError(f"{settings.teacher}: its answers have {sizes[0]}; expected {checkpoint}'s {sizes[1]}")
    for module in (teacher, student):
        module.eval()  # no dropout: the dense model's answers are the targets, and its noise would be learned too
        module.config.use_cache = False
        if opened.pooling is not None:
            opened.pooling.attach(module)
    teacher.requires_grad_(False)
    student.requires_grad_(True)
    blocks = _blocks(checkpoint, student, opened, config)
    _check(checkpoint, blocks, settings)
    watched = Gates(_blocks(settings.teacher or checkpoint, teacher, opened, own), None)
    return Models(opened, teacher, student, config, tuple(blocks), Gates(blocks, settings.top_k), watched)


def _load_teacher(checkpoint: str, opened: Opened, named: str | None) -> tuple[Any, Any]:
    """Load the dense model whose answers are learned: the checkpoint's own, or another of the same kind."""
    if named is None:
        return load(opened.folder, checkpoint, opened.head)
    other = open_folder(named, opened.head.task)
    teacher, config = load(other.folder, named, other.head)
    if (
        other.family is not opened.family
        or other.head.outputs != opened.head.outputs
        or other.pooling != opened.pooling
    ):
        raise ConfigurationError(
            f"{named}: a {type(teacher).__name__} cannot teach {checkpoint}: its answers are others"
        )
    return teacher, config


def _blocks(checkpoint: str, module: Any, opened: Opened, config: Any) -> list[Found]:  # noqa: ANN401
    inputs = opened.family.inputs(config, 2, min([11, *opened.family.max_lengths(config).values()]))
    taken = set(_forward_names(module))
    try:
        blocks, reasons = find_blocks(module, lambda: module(**{k: v for k, v in inputs.items() if k in taken}))
    except Exception as error:
        raise CheckpointError(f"{checkpoint}: it does not run on example inputs ({error})") from error
    if not blocks:
        first = f"; {len(reasons)} looked like one, the first, {reasons[0]}" if reasons else ""
        raise CheckpointError(f"{checkpoint}: no MLP block, an activation module between two projections, in it{first}")
    return blocks


def _check(checkpoint: str, blocks: list[Found], settings: FinetuneSettings) -> None:
    if settings.relufy and not any(block.activation == "ReLU" for block in blocks):
        raise CheckpointError(
            f"{checkpoint}: its blocks' {blocks[0].activation} did not become ReLU by its config.json"
        )
    narrow = min(blocks, key=lambda block: block.d_ff)
    if settings.top_k is not None and settings.top_k >= narrow.d_ff:
        raise ConfigurationError(
            f"top_k is {settings.top_k}; expected less than the {narrow.d_ff} neurons of {narrow.name}"
        )


def _forward_names(module: torch.nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _rectify(checkpoint: str) -> Any:  # noqa: ANN401 (a function of configurations)
    def change(config: Any) -> Any:  # noqa: ANN401
        before = config.to_dict()
        after = rectified(before)
        if after == before:
            raise CheckpointError(
                f"{checkpoint}: its configuration names no GELU or SiLU to be made a ReLU; leave out --relufy"
            )
        return type(config).from_dict(after)

    return change


def rectified(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which every GELU, SiLU and their like is a ReLU."""

    def value(key: object, old: Any) -> Any:  # noqa: ANN401
        if isinstance(old, Mapping):
            return rectified(old)
        if not (isinstance(key, str) and isinstance(old, str)):  # the keys of id2label are numbers
            return old
        if key == "feed_forward_proj":  # T5's: "gated-gelu"
            gated, dash, name = old.rpartition("-")
            return f"{gated}{dash}relu" if any(smooth in name for smooth in _SMOOTH) else old
        return "relu" if "act" in key and any(smooth in old.lower() for smooth in _SMOOTH) else old

    return {key: value(key, old) for key, old in config.items()}


def write_checkpoint(models: Models, settings: FinetuneSettings, folder: Path, record: Mapping[str, Any]) -> None:
    """Write the student as a Hugging Face checkpoint, with the original's other files and a note for export.

    The weights have the original's type; the student's own are rounded to it.

    Parameters
    ----------
    folder
        An empty one.
    record
        What is written to `finetune.json`.
    """
    source = models.opened.folder
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path.name.endswith(_WEIGHTS):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, folder / path.name)
    with quiet():
        models.student.to(stored_type(source)).save_pretrained(folder)
    models.student.float()
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["use_cache"] = _own(source).get("use_cache", True)
    note = {"top_k": settings.top_k} if settings.top_k is not None else {}
    config[NOTE] = note | {"finetuned": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "finetune.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def stored_type(folder: Path) -> torch.dtype:
    """Return the type of most of a checkpoint's weights."""
    from safetensors import safe_open

    sizes: dict[torch.dtype, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                part = file.get_tensor(name)
                if part.is_floating_point():
                    sizes[part.dtype] = sizes.get(part.dtype, 0) + part.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])


def _own(folder: Path) -> dict[str, Any]:
    own: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return own
