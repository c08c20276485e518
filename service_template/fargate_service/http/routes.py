"""The routes of the service, as a Starlette application that BentoML mounts at its root.

    POST /predict_image   image classifiers: image files, multipart or as the body → {"label": …}, several → a list
    POST /invocations     MLflow's scoring protocol, with GET /ping, /health and /version
    GET  /                the page of the model; /swagger and /docs.json, the Swagger page and the document behind it

BentoML adds /livez, /readyz, /healthz, /metrics and /static_content. Predictions run in threads, so that a long
one delays neither health checks nor other requests.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fargate_service.errors import RequestError, make_error_body, request_id
from fargate_service.http.answer_streaming import EVENTS, PieceResponse, asked_form, encode_pieces
from fargate_service.http.direct_routes import Handler
from fargate_service.http.gathering import Gathering
from fargate_service.http.image_upload import parse_top, read_body, read_images
from fargate_service.http.model_page import make_model_page
from fargate_service.http.openapi_document import encode_document, make_openapi_document
from fargate_service.http.request_limits import Admission
from fargate_service.http.swagger_page import make_swagger_page
from fargate_service.memory.json_body import has_more_levels
from fargate_service.memory.reservation import current_reservation
from fargate_service.models.loaded_model import (
    EXAMPLE_FILE,
    Gatherer,
    ImageLabeler,
    LoadedModel,
    ScoringResponse,
    Streamer,
)
from fargate_service.settings import ServiceDescription, Settings

# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")
_EXAMPLE_LIMIT_BYTES = 20_000  # a longer example does not help on the page
THREADS_OF_A_BATCH = 32
_LARGE_BYTES = 50_000

P = ParamSpec("P")
R = TypeVar("R")


class Routes:
    """The handlers, ready once `serve` has been called; BentoML waits for that before it accepts requests."""

    def __init__(self, description: ServiceDescription, settings: Settings) -> None:
        self._description = description
        self._settings = settings
        self._admission = Admission(settings.max_concurrent_requests, settings.timeout_seconds)
        guard = self._admission.guard
        routes = [
            Route("/", self.page),
            Route("/swagger", self.swagger),
            Route("/docs.json", self.docs),
            Route("/ping", self.ping),
            Route("/health", self.ping),
            Route("/version", self.version),
        ]
        self.direct = {"/invocations": _with_errors(guard(self.invocations))}
        if description.template == "image_classifier":
            self.direct["/predict_image"] = _with_errors(guard(self.predict_image))
        # These are for other methods, which get 405.
        routes += [Route(path, handler, methods=["POST"]) for path, handler in self.direct.items()]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _answer_error})
        self.paths = frozenset(route.path for route in routes)

    def serve(self, model: LoadedModel) -> None:
        """Serves `model` from now on."""
        self._model = model
        # Bounded: each prediction in flight keeps its input and result in memory. Where requests share predictions, all
        # but one of them wait; otherwise one more than there are CPUs, because one can wait for memory.
        # A prediction can switch from one mode to the other. An unused pool has no threads.
        self._sharing = ThreadPoolExecutor(THREADS_OF_A_BATCH, thread_name_prefix="predict")
        self._alone = ThreadPoolExecutor(self._settings.cpus + 1, thread_name_prefix="predict")
        self._gatherer = model if isinstance(model, Gatherer) else None
        self._gathering = Gathering(self._gatherer.invoke_together) if self._gatherer else None
        metadata = _read_metadata(self._settings.model_dir)
        example = _read_example(self._settings.model_dir, self._settings.documents.max_levels)
        needs_key = self._settings.api_key is not None
        document = make_openapi_document(
            self._description,
            needs_key=needs_key,
            metadata=metadata,
            max_body_bytes=self._settings.max_body_bytes,
            example=example,
            answer=_read_answer(model, self._settings.documents.max_levels),
        )
        prefix = self._settings.path_prefix
        self._page = make_model_page(
            self._description, needs_key=needs_key, prefix=prefix, metadata=metadata, example=example
        )
        self._docs = encode_document(document)

    async def predict_image(self, request: Request) -> Response:
        top = parse_top(request.query_params)
        images = await read_images(request, self._settings.images.max_files)
        if not isinstance(self._model, ImageLabeler):
            raise RequestError(404, "This model does not label images.")
        labels = await self._in_thread(self._model.label_images, images.files, top)
        return JSONResponse(labels if images.are_several else labels[0])

    async def invocations(self, request: Request) -> Response:
        content_type = request.headers.get("content-type")
        if not content_type:
            raise RequestError(415, "The request has no Content-Type; send application/json, for example.")
        body = await read_body(request)
        current_reservation().keep_body(len(body))  # its pieces are joined
        if form := asked_form(request) or await self._asked_in(body, content_type):
            return await self._stream(body, content_type, form)
        if len(body) <= _LARGE_BYTES and (gathered := await self._gather(body, content_type)):
            return Response(gathered.body, gathered.status, media_type=gathered.media_type)
        # Large tables gain little from sharing, and many busy threads would delay the event loop and health checks.
        threads = self._alone if len(body) > _LARGE_BYTES else self._threads
        answer = await self._run(threads, self._model.invoke, body, content_type)
        return Response(answer.body, answer.status, media_type=answer.media_type)

    async def _gather(self, body: bytes, content_type: str) -> ScoringResponse | None:
        model = self._gatherer
        if self._gathering and model and model.batching.is_on and model.gathers(content_type):
            return await self._gathering.ask(body)
        return None

    async def ping(self, _: Request) -> Response:
        return Response("\n", media_type="application/json")

    async def version(self, _: Request) -> Response:
        # The body is fixed by MLflow's protocol; class names can be non-ASCII, headers cannot.
        batching = str(self._model.batching).encode("ascii", "backslashreplace").decode()
        return Response(self._model.version, headers={"X-Batching": batching}, media_type="application/json")

    async def page(self, _: Request) -> Response:
        return self._page

    async def swagger(self, _: Request) -> Response:
        return make_swagger_page(self._description.title)

    async def docs(self, _: Request) -> Response:
        return Response(self._docs, media_type="application/json")

    def close(self) -> None:
        """Stops the threads after they finish their work."""
        self._sharing.shutdown()
        self._alone.shutdown()
        if self._gathering:
            self._gathering.close()

    async def _asked_in(self, body: bytes, content_type: str) -> str | None:
        model = self._model
        if isinstance(model, Streamer) and model.may_ask(body):
            return EVENTS if await self._in_thread(model.asks, body, content_type) else None
        return None

    async def _stream(self, body: bytes, content_type: str, form: str) -> Response:
        if not isinstance(self._model, Streamer):
            raise RequestError(406, "This model does not stream; send 'Accept: application/json'.")
        # A thread of its own: other streams do not wait for it, and it is closed after the chunk that it is computing.
        threads = ThreadPoolExecutor(1, thread_name_prefix="stream")
        opened: list[Generator[Any]] = []

        async def in_thread(work: Callable[[], R]) -> R:
            return await self._run(threads, work)

        def end() -> None:
            for pieces in opened:
                threads.submit(pieces.close)
            threads.shutdown(wait=False)

        try:
            opened.append(pieces := await in_thread(partial(self._model.stream, body, content_type)))
            # Waits for the first chunk, so that an error in the input still gets its own status.
            first = await in_thread(lambda: list(itertools.islice(pieces, 1)))
        except BaseException:
            end()
            raise
        return PieceResponse(encode_pieces(itertools.chain(first, pieces), form, in_thread), form, end)

    @property
    def _threads(self) -> ThreadPoolExecutor:
        return self._sharing if self._model.batching.is_on else self._alone

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._run(self._threads, function, *args, **kwargs)

    async def _run(self, threads: ThreadPoolExecutor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        reservation = current_reservation()
        reservation.hold()
        work: Callable[[], R] = partial(function, *args, **kwargs)
        if threads is self._sharing:
            work = partial(self._model.arrivals.announced, work)
        future = threads.submit(reservation.context.run, work)
        # Not when this coroutine ends: after a time-out the thread goes on, and needs its memory.
        future.add_done_callback(lambda _: reservation.let_go())
        try:
            return await asyncio.wrap_future(future)
        except RequestError:
            raise
        except Exception as error:
            logger.exception("The model failed on request %s", request_id.get())
            raise RequestError(500, "The model failed on this input; see the container's log.") from error


def _read_metadata(model_dir: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((model_dir / "MLmodel").read_text(encoding="utf-8")))


def _read_example(model_dir: Path, max_levels: int) -> object | None:
    file = model_dir / EXAMPLE_FILE
    if not file.is_file() or file.stat().st_size > _EXAMPLE_LIMIT_BYTES:
        return None
    return _parse_example(file.read_bytes(), max_levels)


def _read_answer(model: LoadedModel, max_levels: int) -> object | None:
    """What the model returned for its example; None if it has none, or is not warmed up."""
    answer: str = getattr(model, "example_answer", "")
    return _parse_example(answer, max_levels) if 0 < len(answer) <= _EXAMPLE_LIMIT_BYTES else None


def _parse_example(content: str | bytes, max_levels: int) -> object | None:
    try:
        example: object = json.loads(content)
        if has_more_levels(example, max_levels):
            return None
        encode_document({"example": example})
    except (ValueError, RecursionError):  # a number with thousands of digits, or too many levels
        return None
    return example


def _empty_frames(error: BaseException) -> None:
    """Clears the local variables of the functions that `error` and its causes have left.

    Often one of them refers to the error, and the error to them: until the garbage collector finds that, they keep
    the body and the table, while their memory is no longer reserved.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None and id(cause) not in seen]


def _with_errors(handler: Handler) -> Handler:
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except Exception as error:
            return await _answer_error(request, error)

    return answered


async def _answer_error(_: Request, error: Exception) -> Response:
    _empty_frames(error)
    if isinstance(error, RequestError):
        body = make_error_body(error.status, error.message, error.code)
        return Response(body, error.status, error.headers, media_type="application/json")
    if isinstance(error, HTTPException):  # from Starlette: a broken form, a wrong method
        body = make_error_body(error.status_code, error.detail)
        return Response(body, error.status_code, error.headers, media_type="application/json")
    raise error
