"""The trained models as checkpoints: `checkpoint.py:plain` and `checkpoint.py:top_k`.

`lazyneuron export examples/digits/checkpoint.py:top_k` calls the function and takes the module and the example inputs
that it returns.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from model import DigitsViT

TOP_K = 16


def weights_folder() -> Path:
    """Return where `demo.py` keeps what was trained."""
    return Path(os.environ.get("DIGITS_WEIGHTS", "demo/digits"))


def plain() -> tuple[DigitsViT, dict[str, Tensor]]:
    """Return the model trained with a plain ReLU, and example inputs."""
    return _trained("plain", 0)


def top_k() -> tuple[DigitsViT, dict[str, Tensor]]:
    """Return the model trained with the paper's top-k, and example inputs."""
    return _trained("top_k", TOP_K)


def _trained(name: str, k: int) -> tuple[DigitsViT, dict[str, Tensor]]:
    model = DigitsViT(top_k=k)
    model.load_state_dict(load_file(weights_folder() / f"{name}.safetensors"))
    return model.eval(), {"image": torch.zeros(2, 8, 8)}
