"""The Open Inference Protocol's repository calls: index, load and unload."""

from collections.abc import Iterable
from typing import Any

import grpc

from lazyneuron.engine.errors import InputError
from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.serving import Serving

__all__ = ["RepositoryCalls"]

Context = grpc.aio.ServicerContext[Any, Any]

_UNLOAD_HINTS = {"unload_dependents"}  # no model of ours depends on another


class RepositoryCalls:
    """Handlers for a service that has the models in `_serving`."""

    _serving: Serving

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:  # noqa: N802, ARG002
        """List every version with its state, and the reason for each that is not served."""
        _check_repository(request.repository_name)
        entries = [e for e in self._serving.index() if e.state == "READY" or not request.ready]
        make = pb.RepositoryIndexResponse.ModelIndex
        models = [make(name=e.name, version=e.version, state=e.state, reason=e.reason) for e in entries]
        return pb.RepositoryIndexResponse(models=models)

    async def RepositoryModelLoad(  # noqa: N802
        self,
        request: pb.RepositoryModelLoadRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.RepositoryModelLoadResponse:
        """Serve a model as the folder has it now; answer when it is."""
        _check_repository(request.repository_name)
        _check_parameters(request.parameters, set())
        await self._serving.load(_checked_name(request.model_name))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self,
        request: pb.RepositoryModelUnloadRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.RepositoryModelUnloadResponse:
        """Take a model out of service; answer when its requests are answered and its memory is free."""
        _check_repository(request.repository_name)
        _check_parameters(request.parameters, _UNLOAD_HINTS)
        await self._serving.unload(_checked_name(request.model_name))
        return pb.RepositoryModelUnloadResponse()


def _check_repository(name: str) -> None:
    if name:
        raise InputError("repository_name", got=repr(name[:80]), expected="nothing: the server has one repository")


def _checked_name(name: str) -> str:
    if not name or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        raise InputError("model_name", got=repr(name[:80]), expected="a model's name, not a path")
    return name


def _check_parameters(parameters: Iterable[str], known: set[str]) -> None:
    """Refuse what would change which files are loaded: models come from the repository alone."""
    for name in parameters:
        if name not in known:
            raise InputError(f"parameters.{name[:80]}", got="it", expected="no parameters: models are as in the folder")
