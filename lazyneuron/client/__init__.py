"""Calls a running server. Needs neither ONNX Runtime nor an artifact."""

from lazyneuron.client.asynchronous import AsyncClient
from lazyneuron.client.connection import Retries
from lazyneuron.client.messages import Inputs, ModelInfo, ServedPrediction, TensorInfo, Timing
from lazyneuron.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "Inputs",
    "ModelInfo",
    "Retries",
    "ServedPrediction",
    "TensorInfo",
    "Timing",
]
