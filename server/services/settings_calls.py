"""Calls of Triton's that this server answers without having the thing: shared memory, trace and log settings."""

import logging
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from lazyneuron.engine.errors import UnsupportedError
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceServicer

__all__ = ["SettingsCalls"]

Context = grpc.aio.ServicerContext[Any, Any]

_TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": ["0"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["opentelemetry"],
}


class SettingsCalls(GRPCInferenceServiceServicer):
    """Trace and log settings can be read but not changed; shared memory is refused."""

    async def TraceSetting(self, request: pb.TraceSettingRequest, context: Context) -> pb.TraceSettingResponse:  # noqa: N802, ARG002
        """Tell the trace settings; a request that would change one is refused."""
        _refuse_changes("trace", request.settings)
        response = pb.TraceSettingResponse()
        for name, values in _TRACE.items():
            response.settings[name].value.extend(values)
        return response

    async def LogSettings(self, request: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:  # noqa: N802, ARG002
        """Tell the log settings; a request that would change one is refused."""
        _refuse_changes("log", request.settings)
        log = logging.getLogger()
        response = pb.LogSettingsResponse()
        response.settings["log_file"].string_param = ""
        response.settings["log_info"].bool_param = log.isEnabledFor(logging.INFO)
        response.settings["log_warning"].bool_param = log.isEnabledFor(logging.WARNING)
        response.settings["log_error"].bool_param = log.isEnabledFor(logging.ERROR)
        response.settings["log_verbose_level"].uint32_param = int(log.isEnabledFor(logging.DEBUG))
        response.settings["log_format"].string_param = "default"
        return response

    async def _no_shared_memory(self, request: Message, context: Context) -> NoReturn:  # noqa: ARG002
        raise UnsupportedError("this server has no shared memory; send tensors in the message (raw_input_contents)")

    SystemSharedMemoryStatus = _no_shared_memory
    SystemSharedMemoryRegister = _no_shared_memory
    SystemSharedMemoryUnregister = _no_shared_memory
    CudaSharedMemoryStatus = _no_shared_memory
    CudaSharedMemoryRegister = _no_shared_memory
    CudaSharedMemoryUnregister = _no_shared_memory


def _refuse_changes(what: str, settings: object) -> None:
    if settings:
        raise UnsupportedError(
            f"{what} settings cannot be changed while the server runs; set them in its configuration and start it again"
        )
