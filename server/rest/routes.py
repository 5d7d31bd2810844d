"""All of the HTTP port's paths under `/v1` and `/v2`."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from lazyneuron.server.rest.context import Face, json_response
from lazyneuron.server.rest.open_inference import open_inference_routes
from lazyneuron.server.rest.predict import predict_routes

__all__ = ["not_found", "rest_routes"]

_PREFIXES = ("/v1", "/v2")


def rest_routes(face: Face) -> list[BaseRoute]:
    """Return the routes; none where the settings turn them off."""
    return [*open_inference_routes(face), *predict_routes(face)] if face.config.rest.enabled else []


async def not_found(request: Request, error: Exception) -> Response:
    """Answer a path or a verb that is not there: in JSON below our prefixes."""
    assert isinstance(error, HTTPException)
    if not request.url.path.startswith(_PREFIXES):
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
    words = {404: "no such path", 405: f"{request.method} is not for this path"}.get(error.status_code, error.detail)
    response = json_response({"error": f"{request.url.path[:200]}: {words}"}, error.status_code)
    response.headers.update(error.headers or {})
    return response
