"""`inference.GRPCInferenceService`: the Open Inference Protocol, as Triton's clients speak it.

The REST face calls these handlers too, with no context: none reads one but for its deadline.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from lazyneuron import __version__
from lazyneuron.engine.artifact import InputSpec, OutputSpec
from lazyneuron.engine.errors import InputError, ModelNotFoundError, ModelUnavailableError
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.calls import Call, answering, refusal
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.served import ServedModel
from lazyneuron.server.services.context import deadline_of
from lazyneuron.server.services.infer import infer, version_of
from lazyneuron.server.services.model_config import PLATFORM, model_config, wire_shape
from lazyneuron.server.services.repository_calls import RepositoryCalls
from lazyneuron.server.services.settings_calls import SettingsCalls
from lazyneuron.server.services.statistics_message import statistics_message
from lazyneuron.server.serving import Serving
from lazyneuron.server.streams import Streams
from lazyneuron.server.tensors import datatype_of

__all__ = ["OpenInferenceService"]

_EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
    "binary_tensor_data",
)
"""Triton's names. Those for traces, logging and shared memory are not here: nothing can be set there."""
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"

Context = grpc.aio.ServicerContext[Any, Any]


class OpenInferenceService(RepositoryCalls, SettingsCalls):
    """The Open Inference Protocol over the loaded models.

    Parameters
    ----------
    serving
        The models.
    config
        The server's settings.
    metrics
        Where a stream's requests are counted, and where statistics come from.
    streams
        The open streams.
    """

    def __init__(self, serving: Serving, config: ServerConfig, metrics: Metrics, streams: Streams) -> None:
        self._serving = serving
        self._config = config
        self._metrics = metrics
        self._streams = streams

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802, ARG002
        """Tell that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802, ARG002
        """Tell whether requests are taken."""
        return pb.ServerReadyResponse(ready=self._serving.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802, ARG002
        """Tell whether a model takes requests; one that is not there does not."""
        try:
            self._serving.find(request.name, version_of(request.version))
        except (ModelNotFoundError, ModelUnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._serving.ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:  # noqa: N802, ARG002
        """Name the server and the protocol's extensions that it has."""
        return pb.ServerMetadataResponse(name="lazyneuron", version=__version__, extensions=_EXTENSIONS)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802, ARG002
        """Describe a model's inputs and outputs."""
        model = self._serving.find(request.name, version_of(request.version)).model
        return pb.ModelMetadataResponse(
            name=model.name,
            versions=[str(served.model.version) for served in self._versions(model.name)],
            platform=PLATFORM,
            inputs=[_tensor_metadata(spec) for spec in model.manifest.inputs],
            outputs=[_tensor_metadata(spec) for spec in model.manifest.outputs],
        )

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Run one model on one request."""
        return await infer(self._serving, request, deadline_of(context))

    async def ModelStreamInfer(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ModelInferRequest | InputError], context: Context
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """Run many requests on one stream; answers come in the requests' order, as Triton's clients expect them.

        A request that fails is answered with `error_message` and its id; the stream goes on.
        """

        async def answer(request: pb.ModelInferRequest | InputError) -> pb.ModelStreamInferResponse:
            call = Call(_STREAM)
            response = pb.ModelStreamInferResponse()
            try:
                with answering(self._metrics, call):
                    if isinstance(request, InputError):
                        raise request
                    response.infer_response.CopyFrom(await infer(self._serving, request, deadline_of(context)))
            except Exception as error:  # noqa: BLE001  it is answered
                _, response.error_message = refusal(call, error)
                if not isinstance(request, InputError):
                    response.infer_response.id = request.id
            # No model is decoupled: the first answer is the last, so an empty final one is never due.
            response.infer_response.parameters["triton_final_response"].bool_param = True
            return response

        async for response in self._streams.run(request_iterator, answer, ordered=True):
            yield response

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802, ARG002
        """Tell a model's configuration."""
        model = self._serving.find(request.name, version_of(request.version)).model
        versions = [served.model.version for served in self._versions(model.name)]
        return pb.ModelConfigResponse(config=model_config(model.manifest, versions, self._config))

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:  # noqa: N802, ARG002
        """Tell what was run: of one version, of all versions of a model, or of all models."""
        version = version_of(request.version)
        if not request.name:
            served = self._serving.repository.served()
        elif version is None:
            self._serving.find(request.name)
            served = self._versions(request.name)
        else:
            served = [self._serving.find(request.name, version)]
        names = [(one.model.name, str(one.model.version)) for one in served]
        return pb.ModelStatisticsResponse(
            model_stats=[statistics_message(*name, self._metrics.statistics.of(*name)) for name in names]
        )

    def _versions(self, name: str) -> list[ServedModel]:
        """Return what is served under a name, by version."""
        served = [one for one in self._serving.repository.served() if one.model.name == name]
        return sorted(served, key=lambda one: one.model.version)


def _tensor_metadata(spec: InputSpec | OutputSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype_of(spec.dtype), shape=wire_shape(spec.shape)
    )
