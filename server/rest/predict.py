"""`POST /v1/models/NAME:predict`: text in, labels out, with nothing but `curl`; and the few paths that go with it."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lazyneuron.engine.errors import ModelNotFoundError, ModelUnavailableError
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.server.calls import Call, answering, enter
from lazyneuron.server.rest.bodies import in_thread_if_large
from lazyneuron.server.rest.context import (
    Face,
    answered,
    call_of,
    error_response,
    guarded,
    header_deadline,
    json_response,
    until_gone,
)
from lazyneuron.server.rest.predict_body import read_predict, write_prediction
from lazyneuron.server.services.infer import version_of
from lazyneuron.server.services.predict import predict

__all__ = ["predict_routes"]

_Result = TypeVar("_Result")


class _InstanceError(Exception):
    """What one instance failed with."""

    def __init__(self, index: int, call: Call, cause: Exception) -> None:
        super().__init__(index)
        self.index, self.call, self.cause = index, call, cause


def predict_routes(face: Face) -> list[Route]:
    """Return the routes."""

    async def models(request: Request) -> Response:  # noqa: ARG001  Starlette's signature
        names = {served.model.name for served in face.serving.repository.served()}
        return json_response({"models": sorted(names)})

    async def model(request: Request) -> Response:
        name, serving = request.path_params["name"], face.serving
        try:
            serving.find(name, version_of(request.path_params.get("version", "")))
        except (ModelNotFoundError, ModelUnavailableError):
            return json_response({"name": name, "ready": False}, 503 if _known(face, name) else 404)
        return json_response({"name": name, "ready": serving.ready})

    async def run(request: Request) -> Response:
        return await _Prediction(face, request).run()

    version = "/v1/models/{name}/versions/{version}"
    return [
        Route("/v1/models", guarded(models), methods=["GET"]),
        Route("/v1/models/{name}:predict", run, methods=["POST"]),
        Route(version + ":predict", run, methods=["POST"]),
        Route("/v1/models/{name}", guarded(model), methods=["GET"]),
        Route(version, guarded(model), methods=["GET"]),
    ]


def _known(face: Face, name: str) -> bool:
    return any(entry.name == name for entry in face.serving.index())


class _Prediction:
    """One call. Each instance is a request of its own: queued, batched and counted by itself."""

    def __init__(self, face: Face, request: Request) -> None:
        self._face = face
        self._request = request

    async def run(self) -> Response:
        return await answered(self._request, self._run)

    async def _run(self, call: Call) -> Response:
        try:
            deadline = header_deadline(self._request)
            requests = await self._read()
        except Exception as error:
            with answering(self._face.metrics, call):  # it fails before there are instances to count
                raise error from None
        many = [self._answer(index, one, deadline) for index, one in enumerate(requests)]
        try:
            answers = await until_gone(self._request, _all_or_none(many))
        except _InstanceError as error:
            enter(error.call)  # the request's line in the log tells of it
            where = f"instances[{error.index}]: " if len(requests) > 1 else ""
            return error_response(error.call, error.cause, where)
        return await self._write(answers)

    async def _read(self) -> list[pb.PredictRequest]:
        request = self._request
        manifest = self._face.serving.find(
            request.path_params["name"], version_of(request.path_params.get("version", ""))
        ).model.manifest
        json, _ = await self._face.read(request)
        most = self._face.config.rest.max_instances
        return await in_thread_if_large(len(json), lambda: read_predict(manifest, json, most))

    async def _answer(self, index: int, request: pb.PredictRequest, deadline: float | None) -> pb.PredictResponse:
        call = call_of(self._request)
        try:
            with answering(self._face.metrics, call):
                return await predict(self._face.serving, request, deadline)
        except Exception as error:
            raise _InstanceError(index, call, error) from error

    async def _write(self, answers: Sequence[pb.PredictResponse]) -> Response:
        size = sum(answer.ByteSize() for answer in answers)
        predictions = await in_thread_if_large(size, lambda: [write_prediction(answer) for answer in answers])
        about = {"model_name": answers[0].model_name, "model_version": str(answers[0].model_version)}
        return await in_thread_if_large(size, lambda: json_response(about | {"predictions": predictions}))


async def _all_or_none(many: Sequence[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Return what all of them give; when one fails, cancel the others."""
    tasks = [asyncio.create_task(one) for one in many]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
