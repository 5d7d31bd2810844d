"""A Hugging Face directory (config.json and safetensors), or a hub name where there is a network."""

import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from lazyneuron.engine.artifact import BATCH_AXIS, Source
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources import sentences
from lazyneuron.exporters.sources.dense import DenseModel, Tokenizer
from lazyneuron.exporters.sources.digest import digest_files
from lazyneuron.exporters.sources.families import FAMILIES, Family, Head, family_of
from lazyneuron.exporters.sources.families.experts import write_out_experts
from lazyneuron.exporters.sources.families.family import Config
from lazyneuron.exporters.sources.kept import kept_graph
from lazyneuron.exporters.sources.normal import normalise
from lazyneuron.exporters.sources.preprocessing import with_preprocessing
from lazyneuron.exporters.sources.roles import input_specs, output_specs
from lazyneuron.exporters.sources.sentences import Pooling, pooling_of
from lazyneuron.exporters.sources.tokenizer import tokenizer_of
from lazyneuron.exporters.sources.torch_export import to_onnx

__all__ = ["NOTE", "Opened", "is_mine", "load", "open_folder", "read", "token"]

NOTE = "lazyneuron"
"""The key of config.json under which `lazyneuron finetune` says what a model was trained for."""

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_BATCH, _LENGTH = 2, 11


def is_mine(checkpoint: str) -> bool:
    """Tell whether the checkpoint is a folder or looks like a hub's `owner/name`."""
    return Path(checkpoint).is_dir() or _hub_name(checkpoint)


def read(checkpoint: str, task: str | None, cache: Path | None = None) -> DenseModel:
    """Read a Hugging Face checkpoint, computing in float32.

    Parameters
    ----------
    cache
        Where graphs are kept; None: the default place.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, pickled, or of an architecture or task that cannot be exported.
    """
    opened = open_folder(checkpoint, task)
    return with_preprocessing(_export(opened, checkpoint, cache), opened.folder)


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint's folder, found to be one that can be read.

    Attributes
    ----------
    folder
        Where its files are.
    family, head
        How it is loaded, and what comes out.
    weights
        Its safetensors files.
    pooling
        How tokens' states become one vector; None where they do not.
    """

    folder: Path
    family: Family
    head: Head
    weights: list[Path]
    pooling: Pooling | None

    @property
    def digest(self) -> str:
        """Of the configuration and the weights, read anew each time."""
        return digest_files([self.folder / "config.json", *self.weights])


def open_folder(checkpoint: str, task: str | None) -> Opened:
    """Look at a Hugging Face checkpoint without loading it.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, pickled, or of an architecture or task that is not known.
    """
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else _download(checkpoint)
    architecture, model_type = _architecture(folder, checkpoint)
    weights = _weights(folder, checkpoint)
    family = family_of(model_type)
    if family is None:
        known = ", ".join(t for f in FAMILIES for t in f.model_types)
        raise CheckpointError(
            f"{checkpoint}: model_type {model_type!r} is not known; expected {known}, or another encoder, decoder or "
            "encoder–decoder that transformers knows"
        )
    pooling = pooling_of(folder, checkpoint, task)
    head = family.head(architecture, task if pooling is None else "feature-extraction")
    if head is None:
        tasks = ", ".join(dict.fromkeys(h.task for h in family.heads))
        raise CheckpointError(f"{checkpoint}: a {model_type} model has no {task} head here; expected one of {tasks}")
    if pooling is not None:
        head = replace(head, task=sentences.TASK, outputs=(sentences.OUTPUT,))
    return Opened(folder, family, head, weights, pooling)


def _export(opened: Opened, checkpoint: str, cache: Path | None) -> DenseModel:
    folder, head, digest = opened.folder, opened.head, opened.digest
    model = kept_graph(
        lambda: _graph(opened, checkpoint),
        digest=digest,
        what=f"{head!r} {opened.pooling!r}",
        size=sum(path.stat().st_size for path in opened.weights),
        folder=cache,
    )
    config = _config(folder)
    most = opened.family.max_lengths(config)
    inputs = input_specs(model.graph, checkpoint, pad_token=token(config, "pad_token_id") or 0)
    ragged = {axis for spec in inputs for axis in spec.shape}
    labels = getattr(config, "id2label", None) if head.task.endswith(("classification", "detection")) else None
    return DenseModel(
        model=model,
        source=Source(
            kind="hugging_face",
            name=folder.name if Path(checkpoint).is_dir() else checkpoint,
            digest=digest,
        ),
        inputs=inputs,
        outputs=output_specs(model.graph, checkpoint),
        task=head.task,
        max_lengths={axis: limit for axis, limit in most.items() if axis in ragged},
        length=min([32, *most.values()]),
        tokenizer=_tokenizer(folder, config, most) if any(spec.name == "input_ids" for spec in inputs) else None,
        labels=tuple(str(labels[i]) for i in sorted(labels)) if labels else None,
        top_k=_noted_top_k(config, checkpoint),
    )


def _graph(opened: Opened, checkpoint: str) -> ir.Model:
    family, head = opened.family, opened.head
    module, config = _load(opened.folder, checkpoint, head)
    if opened.pooling is not None:
        opened.pooling.attach(module)
    length = min([_LENGTH, *family.max_lengths(config).values()])
    taken = _parameters(module)
    examples = {name: value for name, value in family.inputs(config, _BATCH, length).items() if name in taken}
    axes = {(name, axis): called for name in examples for axis, called in family.axes(name).items()}
    # Dims without names, since torch refuses one name for two inputs that it could broadcast; `named` joins them.
    free = {name: [0, *family.axes(name)] for name in examples}
    dynamic = {name: dict.fromkeys(free[name], torch.export.Dim.DYNAMIC) for name in examples}
    graph = to_onnx(_Outputs(module, head.outputs), examples, dynamic, head.outputs, what=checkpoint, consume=True)
    model = normalise(graph, keep_axes=False, named=axes)
    for value in model.graph.outputs:  # torch may have an expression for it
        value.shape = ir.Shape([ir.SymbolicDim(BATCH_AXIS), *(value.shape or ())[1:]])
    return model


def _noted_top_k(config: Config, checkpoint: str) -> int | None:
    """Return the top-k that `lazyneuron finetune` noted in config.json."""
    note = getattr(config, NOTE, None)
    if note is None:
        return None
    k = note.get("top_k") if isinstance(note, dict) else note
    if k is None or (type(k) is int and k >= 1):
        return k
    raise CheckpointError(f"{checkpoint}: config.json: {NOTE}.top_k is {k!r}; expected a whole number of at least 1")


def _tokenizer(folder: Path, config: Config, most: dict[str, int]) -> Tokenizer | None:
    found = tokenizer_of(folder, most.get("sequence"))
    start = token(config, "decoder_start_token_id")
    return found if found is None or start is None else replace(found, decoder_start=start)


def _parameters(module: torch.nn.Module) -> set[str]:
    """Return the names of what a module's forward takes."""
    return set(inspect.signature(module.forward).parameters)


def token(config: Config, name: str) -> int | None:
    """Return a special token's id; some models have several, of which the first counts."""
    for part in (config, config.get_text_config()):
        value = getattr(part, name, None)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    return None


class _Outputs(torch.nn.Module):
    """Gives some fields of a model's answer."""

    def __init__(self, model: torch.nn.Module, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.lazyneuron_wrapped = model
        self.fields = fields

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer = self.lazyneuron_wrapped(**inputs)
        return tuple(getattr(answer, field) for field in self.fields)


def _load(folder: Path, checkpoint: str, head: Head) -> tuple[torch.nn.Module, Config]:
    module, config = load(folder, checkpoint, head)
    module = (module.get_encoder() if head.encoder else module).eval()
    write_out_experts(module, checkpoint)
    return module, config


def load(
    folder: Path, checkpoint: str, head: Head, change: Callable[[Config], Config] | None = None
) -> tuple[Any, Config]:
    """Load a checkpoint's module in float32, as transformers has it, and its configuration.

    Parameters
    ----------
    change
        Makes another configuration of the checkpoint's own, under which its weights are loaded.

    Raises
    ------
    CheckpointError
        If transformers cannot load it, or weights are missing.
    """
    with quiet():
        import transformers

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            changed = {} if change is None else {"config": change(transformers.AutoConfig.from_pretrained(folder))}
            module, info = getattr(transformers, head.loader).from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **changed,
            )
        except CheckpointError:  # the change's
            raise
        except Exception as error:
            raise CheckpointError(f"{checkpoint}: transformers cannot load it: {_first_line(error)}") from error
    # The pooler is a head of its own, and feature extraction does not give its output.
    missing = sorted(key for key in info["missing_keys"] if ".pooler." not in f".{key}")
    if missing:
        raise CheckpointError(
            f"{checkpoint}: it has no weights for {len(missing)} tensors of a {head.task} model ({missing[0]}, …); "
            "choose another --task"
        )
    if getattr(module.config, "use_cache", False):
        module.config.use_cache = False
    return module, module.config


def _config(folder: Path) -> Config:
    with quiet():
        import transformers

        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)


def _architecture(folder: Path, checkpoint: str) -> tuple[str, str]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return (config.get("architectures") or [""])[0], str(config.get("model_type"))
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: no config.json in it; expected a Hugging Face model's folder") from None
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint}: config.json is not readable as JSON ({error})") from error


def _weights(folder: Path, checkpoint: str) -> list[Path]:
    """Return the safetensors files, each with a sound header and its full length."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = next((p.name for pattern in _PICKLED for p in folder.glob(pattern)), None)
        if pickled:
            raise CheckpointError(
                f"{checkpoint}: its weights are pickled ({pickled}), which can run code when read; "
                "save them with save_pretrained, which writes safetensors"
            )
        raise CheckpointError(f"{checkpoint}: no safetensors in it; expected model.safetensors")
    for path in files:
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged safetensors ({_first_line(error)}); copy it again") from error
    return files


def _hub_name(checkpoint: str) -> bool:
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", checkpoint)
    # `models/mine`, mistyped, in a folder that has `models/` is a path, and so is what has a file's ending.
    local = match is not None and (Path(match[1]).is_dir() if match[1] else checkpoint.endswith((".py", ".onnx")))
    return match is not None and not local


def _download(checkpoint: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            return Path(snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint}: no such file or folder, and the Hugging Face hub did not give it ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
