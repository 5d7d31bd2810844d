"""Fine-tuning a checkpoint to be sparse: top-k in training, or ReLU in the place of GELU and SiLU, by distillation."""

import importlib
from typing import TYPE_CHECKING, Any

from lazyneuron.engine.errors import ConfigurationError

if TYPE_CHECKING:
    from lazyneuron.exporters.finetune.api import FinetuneReport, finetune
    from lazyneuron.exporters.finetune.settings import FinetuneSettings

__all__ = ["FinetuneReport", "FinetuneSettings", "finetune"]

_HOMES = {"FinetuneReport": "api", "FinetuneSettings": "settings", "finetune": "api"}
_EXTRA = ("torch", "transformers", "onnx_ir", "safetensors", "onnx", "onnxscript")


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module's attributes have any type)
    """Import on first use, for the reason that `lazyneuron.exporters` does."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(f"fine-tuning needs {error.name}: pip install 'lazyneuron[export]'") from error
