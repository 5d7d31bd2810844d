"""The Open Inference Protocol's paths (`/v2/…`), as KServe and Triton have them."""

from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lazyneuron.engine.errors import InputError, UnsupportedError
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.calls import Call, answering
from lazyneuron.server.rest.bodies import HEADER_LENGTH, in_thread_if_large, parse_json, read_body
from lazyneuron.server.rest.context import (
    Face,
    answered,
    guarded,
    header_deadline,
    json_response,
    until_gone,
)
from lazyneuron.server.rest.documents import document_of
from lazyneuron.server.rest.infer_body import read_infer, write_infer
from lazyneuron.server.services.infer import infer, parameter_of

__all__ = ["open_inference_routes"]

_SMALL_BODY = 64 * 1024  # of the calls that carry no tensors
_NO_CONTEXT: Any = None  # the handlers read nothing from gRPC's


def open_inference_routes(face: Face) -> list[Route]:
    """Return the routes."""
    calls = _Calls(face)
    model = "/v2/models/{name}"
    version = model + "/versions/{version}"
    routes = [
        _get("/v2", calls.server_metadata),
        _get("/v2/health/live", calls.live),
        _get("/v2/health/ready", calls.ready),
        _get("/v2/models/stats", calls.statistics),
        _post("/v2/repository/index", calls.index),
        _post("/v2/repository/models/{name}/load", calls.load),
        _post("/v2/repository/models/{name}/unload", calls.unload),
        Route("/v2/trace/setting", guarded(calls.trace_settings), methods=["GET", "POST"]),
        Route(f"{model}/trace/setting", guarded(calls.trace_settings), methods=["GET", "POST"]),
        Route("/v2/logging", guarded(calls.log_settings), methods=["GET", "POST"]),
        Route("/v2/systemsharedmemory/{rest:path}", guarded(calls.shared_memory), methods=["GET", "POST"]),
        Route("/v2/cudasharedmemory/{rest:path}", guarded(calls.shared_memory), methods=["GET", "POST"]),
    ]
    for prefix in (model, version):
        routes += [
            _get(prefix, calls.model_metadata),
            _get(f"{prefix}/ready", calls.model_ready),
            _get(f"{prefix}/config", calls.model_config),
            _get(f"{prefix}/stats", calls.statistics),
            Route(f"{prefix}/infer", calls.infer, methods=["POST"]),
        ]
    return routes


class _Calls:
    """The handlers. Each decodes, calls what gRPC calls, and encodes."""

    def __init__(self, face: Face) -> None:
        self._face = face

    async def live(self, request: Request) -> Response:  # noqa: ARG002  Starlette's signature, here and below
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:  # noqa: ARG002
        serving = self._face.find_serving()
        ready = serving is not None and serving.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def server_metadata(self, request: Request) -> Response:  # noqa: ARG002
        answer = await self._face.service.ServerMetadata(pb.ServerMetadataRequest(), _NO_CONTEXT)
        return json_response(document_of(answer))

    async def model_metadata(self, request: Request) -> Response:
        answer = await self._face.service.ModelMetadata(pb.ModelMetadataRequest(**_model(request)), _NO_CONTEXT)
        return json_response(document_of(answer))

    async def model_ready(self, request: Request) -> Response:
        answer = await self._face.service.ModelReady(pb.ModelReadyRequest(**_model(request)), _NO_CONTEXT)
        return json_response({"name": request.path_params["name"], "ready": answer.ready}, 200 if answer.ready else 503)

    async def model_config(self, request: Request) -> Response:
        answer = await self._face.service.ModelConfig(pb.ModelConfigRequest(**_model(request)), _NO_CONTEXT)
        return json_response(document_of(answer.config))

    async def statistics(self, request: Request) -> Response:
        answer = await self._face.service.ModelStatistics(pb.ModelStatisticsRequest(**_model(request)), _NO_CONTEXT)
        return json_response(document_of(answer))

    async def index(self, request: Request) -> Response:
        document = await _small_document(request)
        ready = document.get("ready", False)
        if not isinstance(ready, bool):
            raise InputError("ready", got=type(ready).__name__, expected="true or false")
        answer = await self._face.service.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), _NO_CONTEXT)
        return json_response([document_of(model) for model in answer.models])

    async def load(self, request: Request) -> Response:
        message = pb.RepositoryModelLoadRequest(model_name=request.path_params["name"])
        _fill_parameters(message, await _small_document(request))
        await self._face.service.RepositoryModelLoad(message, _NO_CONTEXT)
        return json_response({})

    async def unload(self, request: Request) -> Response:
        message = pb.RepositoryModelUnloadRequest(model_name=request.path_params["name"])
        _fill_parameters(message, await _small_document(request))
        await self._face.service.RepositoryModelUnload(message, _NO_CONTEXT)
        return json_response({})

    async def trace_settings(self, request: Request) -> Response:
        message = pb.TraceSettingRequest()
        for name in await _small_document(request) if request.method == "POST" else ():
            message.settings[name].SetInParent()
        answer = await self._face.service.TraceSetting(message, _NO_CONTEXT)
        settings = {name: list(setting.value) for name, setting in answer.settings.items()}
        # Triton has a list for the level alone here, though gRPC has one for each.
        return json_response({n: v if n == "trace_level" else ",".join(v) for n, v in settings.items()})

    async def log_settings(self, request: Request) -> Response:
        message = pb.LogSettingsRequest()
        for name in await _small_document(request) if request.method == "POST" else ():
            message.settings[name].SetInParent()
        answer = await self._face.service.LogSettings(message, _NO_CONTEXT)
        return json_response({name: parameter_of(setting) for name, setting in sorted(answer.settings.items())})

    async def shared_memory(self, request: Request) -> Response:  # noqa: ARG002
        raise UnsupportedError("this server has no shared memory; send tensors in the body")

    async def infer(self, request: Request) -> Response:
        return await answered(request, partial(self._infer, request))

    async def _infer(self, request: Request, call: Call) -> Response:
        with answering(self._face.metrics, call):
            serving, deadline = self._face.serving, header_deadline(request)
            json, binary = await self._face.read(request, request.headers.get(HEADER_LENGTH))
            name, version = request.path_params["name"], request.path_params.get("version", "")
            body = await in_thread_if_large(len(json), lambda: read_infer(name, version, json, binary))
            answer = await until_gone(request, infer(serving, body.message, deadline))
            size = sum(len(contents) for contents in answer.raw_output_contents)
            content, json_size = await in_thread_if_large(size, lambda: write_infer(body, answer))
            if json_size is None:
                return Response(content, media_type="application/json")
            return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(json_size)})


def _get(path: str, handler: Any) -> Route:  # noqa: ANN401
    return Route(path, guarded(handler), methods=["GET"])


def _post(path: str, handler: Any) -> Route:  # noqa: ANN401
    return Route(path, guarded(handler), methods=["POST"])


def _model(request: Request) -> dict[str, str]:
    return {"name": request.path_params.get("name", ""), "version": request.path_params.get("version", "")}


async def _small_document(request: Request) -> dict[str, Any]:
    """Return the JSON object in a body; none where there is no body."""
    body = await read_body(request, limit=_SMALL_BODY, seconds=10)
    return parse_json(body) if body.strip() else {}


def _fill_parameters(
    message: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest, document: dict[str, Any]
) -> None:
    parameters = document.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError("parameters", got=type(parameters).__name__, expected="an object")
    for name, value in parameters.items():
        if isinstance(value, bool):
            message.parameters[name].bool_param = value
        else:  # whatever it is, no parameter of this kind is known
            message.parameters[name].string_param = value if isinstance(value, str) else orjson.dumps(value).decode()
