"""lazyneuron serves trained Transformers for less compute, by skipping the neurons that do not fire.

export, inspect
    A checkpoint -> an artifact; how sparse a checkpoint is. They need the extra `lazyneuron[export]`.
evaluate
    An artifact against its dense graph on labelled data: what it loses and saves. It needs `lazyneuron[export]`, too.
finetune
    A checkpoint -> a sparser one, trained to answer as it did. It needs the same extra.
load
    An artifact -> a `Model`, whose `predict` runs in this process.
Client, AsyncClient, Credentials
    Call a running server; TLS and token for it.
operator_library
    For `onnxruntime.SessionOptions.register_custom_ops_library`, to run an artifact without the rest of lazyneuron.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lazyneuron.client import AsyncClient, Client
    from lazyneuron.credentials import Credentials
    from lazyneuron.engine.accounting import Sparsity
    from lazyneuron.engine.errors import LazyneuronError
    from lazyneuron.engine.model import Model, Prediction
    from lazyneuron.engine.session import operator_library
    from lazyneuron.exporters import evaluate, export, inspect
    from lazyneuron.exporters.finetune import finetune

    load = Model.load

__all__ = [
    "AsyncClient",
    "Client",
    "Credentials",
    "LazyneuronError",
    "Model",
    "Prediction",
    "Sparsity",
    "__version__",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "load",
    "operator_library",
]

__version__ = "0.1.0"

_HOMES = {
    "AsyncClient": "lazyneuron.client",
    "Client": "lazyneuron.client",
    "Credentials": "lazyneuron.credentials",
    "LazyneuronError": "lazyneuron.engine.errors",
    "Model": "lazyneuron.engine.model",
    "Prediction": "lazyneuron.engine.model",
    "Sparsity": "lazyneuron.engine.accounting",
    "evaluate": "lazyneuron.exporters",
    "export": "lazyneuron.exporters",
    "finetune": "lazyneuron.exporters.finetune",
    "inspect": "lazyneuron.exporters",
    "operator_library": "lazyneuron.engine.session",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module's attributes have any type
    """Import on first use: the client needs no ONNX Runtime, the engine no gRPC, `lazyneuron --help` neither."""
    if name == "load":
        return importlib.import_module("lazyneuron.engine.model").Model.load
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    msg = f"module 'lazyneuron' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
