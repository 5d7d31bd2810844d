"""annalog's trained Transformer as two checkpoints: its encoder, and its decoder.

    lazyneuron inspect examples/annalog/checkpoints.py:encoder --calibration encoder.jsonl

annalog (PyPI, MIT licence) translates a molecule's SMILES into those of similar molecules. Install it without what it
needs for chemistry: `pip install --no-deps annalog==1.0.6`. Its weights lie in the package; nothing is copied here.
"""

import importlib
import importlib.util
import io
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

WIDTH, LAYERS, HEADS, D_FF, MAX_LENGTH = 256, 3, 8, 512, 102


class Encoder(torch.nn.Module):
    """Token ids [batch, sequence] to states [batch, sequence, 256]."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = inner

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode; padding, where the mask is 0, is not attended to."""
        return {"states": self.encoder(input_ids, _keys(attention_mask))}


class Decoder(torch.nn.Module):
    """The ids so far [batch, sequence] and the encoder's states to the next token's logits [batch, sequence, 59]."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = inner

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        encoder_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Decode; a token attends to itself and to earlier ones."""
        length = input_ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool).tril()
        logits, _ = self.decoder(
            input_ids, encoder_states, _keys(attention_mask) & earlier, _keys(encoder_attention_mask)
        )
        return {"logits": logits}


def _keys(mask: torch.Tensor) -> torch.Tensor:
    """Turn a mask over tokens into one over attention's keys: [batch, 1, 1, sequence]."""
    return (mask != 0)[:, None, None, :]


def encoder() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the encoder and example inputs."""
    return Encoder(_load("Encoder", "encoder")), _tokens(length=12)


def decoder() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the decoder and example inputs."""
    examples = _tokens(length=12)
    examples["encoder_states"] = torch.randn(2, 15, WIDTH, generator=torch.Generator().manual_seed(0))
    examples["encoder_attention_mask"] = torch.ones(2, 15, dtype=torch.int64)
    return Decoder(_load("Decoder", "decoder")), examples


def _tokens(*, length: int) -> dict[str, torch.Tensor]:
    ids = 4 + torch.arange(2 * length).reshape(2, length)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def package_folder() -> Path:
    """Return where annalog is installed, without importing it: that would need RDKit."""
    spec = importlib.util.find_spec("annalog")
    if spec is None or not spec.submodule_search_locations:
        message = "annalog is not installed: pip install --no-deps annalog==1.0.6"
        raise ModuleNotFoundError(message)
    return Path(spec.submodule_search_locations[0])


def model_file(name: str) -> ModuleType:
    """Import one file of annalog's `model_files`, as a package of our own so that annalog itself is not imported."""
    parent = "_annalog_model_files"
    if parent not in sys.modules:
        package = ModuleType(parent)
        package.__path__ = [str(package_folder() / "model_files")]
        sys.modules[parent] = package
    return importlib.import_module(f"{parent}.{name}")


def vocabulary() -> dict[str, int]:
    """Return the id of each token."""
    data = (package_folder() / "ckpt_and_vocab" / "stereo_experiment_vocab_ttf.pkl").read_bytes()
    return dict(_PlainUnpickler(io.BytesIO(data)).load()["stoi"])


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists and dicts, and nothing that could run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:  # noqa: ANN401
        message = f"the vocabulary holds {module_name}.{global_name}; expected plain lists and dicts"
        raise pickle.UnpicklingError(message)


def _load(kind: str, prefix: str) -> torch.nn.Module:
    module: torch.nn.Module = getattr(model_file("seq2seq_attention"), kind)(
        len(vocabulary()), WIDTH, LAYERS, HEADS, D_FF, 0.0, torch.device("cpu"), MAX_LENGTH
    )
    weights = torch.load(package_folder() / "ckpt_and_vocab" / "Lev_extended.pt", map_location="cpu", weights_only=True)
    module.load_state_dict({k.removeprefix(f"{prefix}."): v for k, v in weights.items() if k.startswith(prefix)})
    return module.eval()
