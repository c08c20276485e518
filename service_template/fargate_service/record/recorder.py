"""Records requests and their answers: ASGI middleware outside of everything that answers, with errors' answers too.

The columns are those of Databricks' inference tables, and what was deployed. Headers are not recorded, nor is a request
without a valid API key.
Source: https://docs.databricks.com/aws/en/ai-gateway/inference-tables
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import httpx

from fargate_service.errors import request_id
from fargate_service.http.image_upload import RECORDED_FILES
from fargate_service.http.middleware import App, Message, Receive, Scope, Send
from fargate_service.record.body import Body, Columns, recorded_text
from fargate_service.record.s3 import Bucket
from fargate_service.record.writer import Writer
from fargate_service.settings import RecordSettings, ServiceDescription

_METADATA_SECONDS = 2.0


@dataclass
class _Exchange:
    """A request and its answer; without what holds the connection, because rows wait in the queue."""

    path: str
    id: str
    is_given: bool  # the ID is the caller's
    request: Body
    response: Body
    at: float = field(default_factory=time.time)
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    status: int = 0
    is_added: bool = False


class Recorder:
    """Records POST requests to `paths` (None: to all but `other_paths`); closed by the server's shutdown."""

    def __init__(
        self,
        app: App,
        settings: RecordSettings,
        description: ServiceDescription,
        paths: frozenset[str] | None,
        other_paths: frozenset[str],
        seconds_left: Callable[[], float],
    ) -> None:
        self._app, self._settings, self._paths, self._other_paths = app, settings, paths, other_paths
        self._columns = Columns(settings.drop, settings.hashed, settings.hash_key)
        self._seconds_left = seconds_left
        self._writer = Writer(settings.folder, Bucket(settings.bucket, settings.region, os.environ).put)
        self._served = {
            "sampling_fraction": settings.sampling_fraction,
            "served_entity_id": description.model_uri,
            "requester": None,
            "deployment": settings.deployment,
            "variant": settings.variant,
            "model_version": description.model_version,
            "run_id": description.run_id,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, self._with_writer(receive), send)
        elif scope["type"] != "http" or scope["method"] != "POST" or not self._is_recorded(scope["path"]):
            await self._app(scope, receive, send)
        else:
            await self._record(scope, receive, send)

    async def _record(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        one = _Exchange(scope["path"], request_id.get(), given == request_id.get(), self._body(headers), self._body({}))

        async def recorded_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                one.request.feed(message.get("body", b""))
            return message

        async def recorded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                one.status = message["status"]
                one.response = self._body({name.lower(): value for name, value in message.get("headers", ())})
            elif message["type"] == "http.response.body":
                one.response.feed(message.get("body", b""))
                one.seconds = time.perf_counter() - one.began
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._add(one)

        try:
            await self._app({**scope, RECORDED_FILES: one.request.files}, recorded_receive, recorded_send)
        finally:
            self._add(one)

    def _body(self, headers: Mapping[bytes, bytes]) -> Body:
        kind, encoding = headers.get(b"content-type", b""), headers.get(b"content-encoding", b"identity")
        return Body(kind, encoding != b"identity", self._settings.max_body_bytes, self._writer.take_room)

    def close(self) -> None:
        """Writes what is left, as far as there is time before SIGKILL."""
        self._writer.close(self._seconds_left())

    def _with_writer(self, receive: Receive) -> Receive:
        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._writer.start(await asyncio.to_thread(_task_id, os.environ))
            elif message["type"] == "lifespan.shutdown":  # every request has been answered
                await asyncio.to_thread(self.close)
            return message

        return received

    def _is_recorded(self, path: str) -> bool:
        is_predicting = path in self._paths if self._paths is not None else path not in self._other_paths
        fraction = self._settings.sampling_fraction
        return is_predicting and (fraction >= 1 or is_sampled(request_id.get(), fraction))

    def _add(self, one: _Exchange) -> None:
        if one.is_added:
            return
        one.is_added, held = True, one.request.held + one.response.held
        if one.status in (0, 401):  # no answer was begun, or it was not the caller's to ask
            self._writer.free_room(held)
        else:
            self._writer.add(lambda: self._row(one), held, is_lost=one.request.is_lost or one.response.is_lost)

    def _row(self, one: _Exchange) -> tuple[str, bytes]:
        at = datetime.fromtimestamp(one.at, timezone.utc)
        request, request_code = recorded_text(one.request, self._columns, is_request=True)
        response, response_code = recorded_text(one.response, self._columns, is_request=False)
        row: dict[str, Any] = {
            "request_date": f"{at:%Y-%m-%d}",
            "databricks_request_id": one.id,
            "client_request_id": one.id if one.is_given else None,
            "request_time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "status_code": one.status,
            "execution_duration_ms": round(one.seconds * 1000),
            "request": request,
            "response": response,
            "logging_error_codes": [code for code in (request_code, response_code) if code],
            "path": one.path,
            "content_type": one.request.media_type,
            **self._served,
        }
        return f"date={at:%Y-%m-%d}/hour={at:%H}", json.dumps(row).encode() + b"\n"


def is_sampled(identifier: str, fraction: float) -> bool:
    """Returns whether the request with this ID is among the sampled `fraction`: the same ones in every deployment."""
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:6], "big") < fraction * 2**48


def _task_id(environ: Mapping[str, str]) -> str:
    """The task's ID, from ECS's agent; a random one outside of ECS.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate.html
    """
    try:
        address = f"{environ['ECS_CONTAINER_METADATA_URI_V4']}/task"
        answer = httpx.get(address, timeout=_METADATA_SECONDS, trust_env=False).raise_for_status().json()
        return str(answer["TaskARN"]).rpartition("/")[2]
    except (httpx.HTTPError, KeyError, ValueError, TypeError):
        return uuid.uuid4().hex
