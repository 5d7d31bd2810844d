"""All of the HTTP port's paths under `/v1` and `/v2`."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.rest.context import Face, json_response
from lazyneuron.server.rest.open_inference import open_inference_routes
from lazyneuron.server.rest.predict import predict_routes
from lazyneuron.server.services.open_inference import OpenInferenceService
from lazyneuron.server.serving import Serving

__all__ = ["not_found", "rest_routes"]

_PREFIXES = ("/v1", "/v2")


def rest_routes(
    config: ServerConfig,
    metrics: Metrics,
    find_serving: Callable[[], Serving | None],
    find_service: Callable[[], OpenInferenceService | None],
) -> list[BaseRoute]:
    """Return the routes; none where the settings turn them off.

    Parameters
    ----------
    config, metrics
        The server's.
    find_serving, find_service
        Give the models and the Open Inference Protocol over them; None while they are being loaded.
    """
    if not config.rest.enabled:
        return []
    face = Face(config, metrics, find_serving, find_service)
    return [*open_inference_routes(face), *predict_routes(face)]


async def not_found(request: Request, error: Exception) -> Response:
    """Answer a path or a verb that is not there: in JSON below our prefixes."""
    assert isinstance(error, HTTPException)
    if not request.url.path.startswith(_PREFIXES):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    words = {404: "no such path", 405: f"{request.method} is not for this path"}.get(error.status_code, error.detail)
    response = json_response({"error": f"{request.url.path[:200]}: {words}"}, error.status_code)
    response.headers.update(error.headers or {})
    return response
