"""A Hugging Face directory (config.json and safetensors), or a hub name where there is a network."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lazyneuron.engine.artifact import Source
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sources import sentences
from lazyneuron.exporters.sources.dense import DenseModel
from lazyneuron.exporters.sources.digest import digest_files
from lazyneuron.exporters.sources.families import FAMILIES, Family, Head, family_of
from lazyneuron.exporters.sources.families.family import Config
from lazyneuron.exporters.sources.normal import normalise
from lazyneuron.exporters.sources.preprocessing import with_preprocessing
from lazyneuron.exporters.sources.roles import input_specs, output_specs
from lazyneuron.exporters.sources.sentences import Pooling, pooling_of
from lazyneuron.exporters.sources.tokenizer import tokenizer_of
from lazyneuron.exporters.sources.torch_export import to_onnx

__all__ = ["is_mine", "read"]

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_BATCH, _LENGTH = 2, 11


def is_mine(checkpoint: str) -> bool:
    """Tell whether the checkpoint is a folder or looks like a hub's `owner/name`."""
    return Path(checkpoint).is_dir() or _hub_name(checkpoint)


def read(checkpoint: str, task: str | None) -> DenseModel:
    """Read a Hugging Face checkpoint, computing in float32.

    Raises
    ------
    CheckpointError
        If it is missing, damaged, pickled, or of an architecture or task that cannot be exported.
    """
    folder = Path(checkpoint) if Path(checkpoint).is_dir() else _download(checkpoint)
    architecture, model_type = _architecture(folder, checkpoint)
    weights = _weights(folder, checkpoint)
    family = family_of(model_type)
    if family is None:
        known = ", ".join(t for f in FAMILIES for t in f.model_types)
        raise CheckpointError(f"{checkpoint}: model_type {model_type!r} is not known; expected one of {known}")
    pooling = pooling_of(folder, checkpoint, task)
    head = family.head(architecture, task if pooling is None else "feature-extraction")
    if head is None:
        tasks = ", ".join(h.task for h in family.heads)
        raise CheckpointError(f"{checkpoint}: a {model_type} model has no {task} head here; expected one of {tasks}")
    if pooling is not None:
        head = replace(head, task=sentences.TASK, output=sentences.OUTPUT)
    return with_preprocessing(_export(folder, checkpoint, family, head, weights, pooling), folder)


def _export(
    folder: Path, checkpoint: str, family: Family, head: Head, weights: list[Path], pooling: Pooling | None
) -> DenseModel:
    module, config = _load(folder, checkpoint, head)
    if pooling is not None:
        pooling.attach(module)
    longest = family.max_length(config)
    length = _LENGTH if longest is None else min(_LENGTH, longest)
    examples = family.inputs(config, _BATCH, length)
    # Dims without names, since torch refuses one name for two inputs that it could broadcast; `agreeing` joins them.
    axes = (0, *family.ragged)
    dynamic = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name in examples}
    graph = to_onnx(_Output(module, head.output), examples, dynamic, (head.output,), what=checkpoint)
    agreeing = [[(name, axis) for name in examples] for axis in family.ragged]
    model = normalise(graph, keep_axes=False, agreeing=agreeing)
    labels = getattr(config, "id2label", None) if head.task.endswith("classification") else None
    return DenseModel(
        model=model,
        source=Source(
            kind="hugging_face",
            name=folder.name if Path(checkpoint).is_dir() else checkpoint,
            digest=digest_files([folder / "config.json", *weights]),
        ),
        inputs=input_specs(model.graph, checkpoint, pad_token=config.pad_token_id or 0 if family.ragged else 0),
        outputs=output_specs(model.graph, checkpoint),
        task=head.task,
        max_lengths=dict.fromkeys(family.ragged.values(), longest) if longest else {},
        length=min(32, longest or 32),
        tokenizer=tokenizer_of(folder, longest) if family.ragged else None,
        labels=tuple(str(labels[i]) for i in sorted(labels)) if labels else None,
    )


class _Output(torch.nn.Module):
    """Gives one field of a model's answer."""

    def __init__(self, model: torch.nn.Module, field: str) -> None:
        super().__init__()
        self.lazyneuron_wrapped = model
        self.field = field

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = getattr(self.lazyneuron_wrapped(**inputs), self.field)
        return answer


def _load(folder: Path, checkpoint: str, head: Head) -> tuple[torch.nn.Module, Config]:
    with quiet():
        import transformers

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            module, info = getattr(transformers, head.loader).from_pretrained(
                folder,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
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
    return module.eval(), module.config


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
