"""The routes of the service, as a Starlette application that BentoML mounts at its root.

    POST /predict_image   image classifiers: an image file, as multipart or as the body → {"label": …}
    POST /invocations     MLflow's scoring protocol, with GET /ping, /health and /version
    GET  /, /docs.json    Swagger page and the OpenAPI document behind it

BentoML adds /livez, /readyz, /healthz, /metrics and /static_content. Predictions run in threads, so that a long one
keeps neither health checks nor other requests waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from http_errors import RequestError, make_error_body
from openapi_document import make_openapi_document
from served_model import EXAMPLE_FILE, ImageLabeller, ServedModel
from serving_settings import ServiceDescription, Settings
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from swagger_page import ASSETS, make_swagger_page

# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")
_EXAMPLE_LIMIT_BYTES = 20_000  # a page with more than that is no help
_BENTOML_PATHS = ("/livez", "/readyz", "/healthz", "/metrics")

P = ParamSpec("P")
R = TypeVar("R")


class Routes:
    """The handlers; they answer once `model` is set, which BentoML waits for before it accepts requests."""

    model: ServedModel

    def __init__(self, description: ServiceDescription, settings: Settings) -> None:
        self._description = description
        self._settings = settings
        # Bounded: each prediction in flight holds its input and its result in memory.
        self._threads = ThreadPoolExecutor(settings.predict_threads, thread_name_prefix="predict")
        routes = [
            Route("/", self.page),
            Route("/docs.json", self.docs),
            Route("/invocations", self.invocations, methods=["POST"]),
            Route("/ping", self.ping),
            Route("/health", self.ping),
            Route("/version", self.version),
        ]
        if description.template == "image_classifier":
            routes.append(Route("/predict_image", self.predict_image, methods=["POST"]))
        self.app = Starlette(
            routes=routes, exception_handlers={RequestError: _answer_error, HTTPException: _answer_error}
        )
        assets = (f"/static_content/{name}" for name in ASSETS)
        self.paths = frozenset([*(route.path for route in routes), *_BENTOML_PATHS, *assets])

    async def predict_image(self, request: Request) -> Response:
        image = await _read_image(request)
        if not isinstance(self.model, ImageLabeller):
            raise RequestError(404, "This model labels no images.")
        return JSONResponse({"label": await self._in_thread(self.model.label_image, image)})

    async def invocations(self, request: Request) -> Response:
        content_type = request.headers.get("content-type")
        if content_type is None:
            raise RequestError(415, "The request has no Content-Type; send application/json, for example.")
        answer = await self._in_thread(self.model.invoke, await request.body(), content_type)
        return Response(answer.body, answer.status, media_type=answer.media_type)

    async def ping(self, _: Request) -> Response:
        return Response("\n", media_type="application/json")

    async def version(self, _: Request) -> Response:
        return Response(self.model.version, media_type="application/json")

    async def page(self, _: Request) -> Response:
        return make_swagger_page(self._description.title)

    async def docs(self, _: Request) -> Response:
        example = await asyncio.to_thread(_read_example, self._settings.model_dir)
        needs_key = self._settings.api_key is not None
        return JSONResponse(make_openapi_document(self._description, needs_key=needs_key, example=example))

    def close(self) -> None:
        """Ends the threads, after what they are doing."""
        self._threads.shutdown()

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))
        except RequestError:
            raise
        except Exception as error:
            logger.exception("The model failed on a request")
            raise RequestError(500, "The model failed on this input; the container's log says how.") from error


async def _read_image(request: Request) -> bytes:
    content_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_part(request)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        image = await request.body()
        if not image:
            raise RequestError(400, "The request holds no image.")
        return image
    raise RequestError(
        415, f"Send an image file as multipart/form-data, image/* or application/octet-stream, not as {content_type}."
    )


async def _read_part(request: Request) -> bytes:
    async with request.form(max_files=2, max_fields=100) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if len(files) != 1:
            raise RequestError(400, f"The form must hold exactly one file, an image; it holds {len(files)}.")
        return await files[0].read()


def _read_example(model_dir: Path) -> object | None:
    file = model_dir / EXAMPLE_FILE
    if not file.is_file() or file.stat().st_size > _EXAMPLE_LIMIT_BYTES:
        return None
    example: object = json.loads(file.read_bytes())
    return example


async def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return Response(make_error_body(error.status, error.message), error.status, media_type="application/json")
    if isinstance(error, HTTPException):  # Starlette's own: a broken form, a wrong method
        body = make_error_body(error.status_code, error.detail)
        return Response(body, error.status_code, error.headers, media_type="application/json")
    raise error
