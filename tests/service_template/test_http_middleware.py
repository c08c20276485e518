"""The middleware in front of the routes, with a plain ASGI application behind it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from typing import Any

import pytest

from fargate_service.http.middleware import (
    OPEN_PATHS,
    ApiKeyGate,
    App,
    BodyLimit,
    KnownPaths,
    Message,
    PathPrefix,
    Receive,
    Scope,
    Send,
)
from fargate_service.http.request_limits import Draining, DrainingGate
from fargate_service.http.response_headers import ResponseHeaders
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.reservation import current_reservation, new_reservation

Sent = list[dict[str, Any]]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Responds with the requested path and the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['path']} {size}".encode()})


def ask(app: App, path: str, *, headers: dict[str, str] | None = None, chunks: tuple[bytes, ...] = (b"",)) -> Sent:
    """Returns what `app` sends for a request."""
    sent: Sent = []
    left = list(chunks)
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]  # any coroutine will do
    return sent


def status(sent: Sent) -> int:
    return int(sent[0]["status"])


def body(sent: Sent) -> str:
    text: str = sent[1]["body"].decode()
    return text


@pytest.mark.parametrize(
    ("path", "inner"),
    [
        ("/churn/predict_image", "/predict_image"),
        ("/churn/", "/"),
        ("/churn/churn/x", "/churn/x"),
        ("/predict_image", "/predict_image"),
        ("/churned/x", "/churned/x"),
        ("/", "/"),
    ],
)
def test_a_prefix_is_removed_only_at_segment_boundaries(path: str, inner: str) -> None:
    assert body(ask(PathPrefix(echo, "/churn"), path)) == f"{inner} 0"


def test_the_bare_prefix_redirects_to_the_page_below_it() -> None:
    sent = ask(PathPrefix(echo, "/churn"), "/churn")

    assert status(sent) == 308
    assert (b"location", b"/churn/") in sent[0]["headers"]


def test_without_a_prefix_paths_are_unchanged() -> None:
    assert body(ask(PathPrefix(echo, ""), "/livez")) == "/livez 0"


def test_unknown_paths_are_rejected_before_they_are_measured() -> None:
    app = KnownPaths(echo, frozenset({"/ping"}))

    assert status(ask(app, "/ping")) == 200
    assert status(ask(app, "/wp-admin")) == 404


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"Authorization": "bearer  s3cret"},
        {"X-Api-Key": "s3cret"},
        {"Authorization": basic("anyone", "s3cret")},
        {"Authorization": "Bearer other", "X-Api-Key": "s3cret"},
    ],
)
def test_a_request_with_the_key_is_passed_on(headers: dict[str, str]) -> None:
    assert status(ask(ApiKeyGate(echo, "s3cret"), "/invocations", headers=headers)) == 200


@pytest.mark.parametrize("headers", [{"X-Api-Key": "old"}, {"X-Api-Key": "new"}, {"Authorization": "Bearer new"}])
def test_while_a_key_is_replaced_the_old_and_the_new_one_are_valid(headers: dict[str, str]) -> None:
    assert status(ask(ApiKeyGate(echo, "old new"), "/invocations", headers=headers)) == 200


@pytest.mark.parametrize("given", ["old new", "ol", "", "oldnew", " "])
def test_several_keys_do_not_add_up_to_another(given: str) -> None:
    assert status(ask(ApiKeyGate(echo, "old new"), "/invocations", headers={"X-Api-Key": given})) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer s3cre"},
        {"Authorization": "s3cret"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic !!!"},
        {"Authorization": basic("s3cret", "")},
        {"X-Api-Key": "S3CRET"},
        {"Cookie": "s3cret"},
    ],
)
def test_a_request_without_the_key_gets_401_in_json(headers: dict[str, str]) -> None:
    sent = ask(ApiKeyGate(echo, "s3cret"), "/invocations", headers=headers)

    assert status(sent) == 401
    assert json.loads(body(sent))["error_code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/ping", "/health"])
def test_health_checks_need_no_key(path: str) -> None:
    assert status(ask(ApiKeyGate(echo, "s3cret"), path)) == 200


@pytest.mark.parametrize("path", ["/", "/docs.json", "/metrics", "/version", "/livez/", "/livezx"])
def test_all_other_paths_need_the_key(path: str) -> None:
    assert status(ask(ApiKeyGate(echo, "s3cret"), path)) == 401


def test_a_body_with_too_large_a_content_length_is_rejected_unread() -> None:
    sent = ask(BodyLimit(echo, 10, MemoryBudget()), "/invocations", headers={"Content-Length": "11"}, chunks=())

    assert status(sent) == 413
    assert "larger than" in body(sent)


def test_a_body_that_exceeds_the_limit_is_rejected_while_it_is_received() -> None:
    from fargate_service.errors import RequestError

    with pytest.raises(RequestError) as refused:  # the routes turn it into the response
        ask(BodyLimit(echo, 10, MemoryBudget()), "/invocations", chunks=(b"12345", b"67890", b"1", b"never read"))

    assert refused.value.status == 413


def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    assert (
        body(ask(BodyLimit(echo, 10, MemoryBudget()), "/invocations", chunks=(b"12345", b"67890"))) == "/invocations 10"
    )


def test_a_client_that_reads_nothing_does_not_keep_others_from_a_response_before_the_process_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statuses: list[int] = []

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def keep(message: Message) -> None:
        statuses.append(message.get("status", 0))

    async def stop_with_requests() -> None:
        is_over = asyncio.Event()
        monkeypatch.setattr(os, "_exit", lambda _: is_over.set())

        async def app(scope: Scope, _: Receive, __: Send) -> None:
            if scope["type"] == "http":
                await never()

        gate = DrainingGate(app, Draining(0.01, 0))
        await gate({"type": "lifespan"}, never, keep)
        scope = {"type": "http", "path": "/invocations"}
        requests = [asyncio.ensure_future(gate(scope, never, send)) for send in (never, keep, never, keep)]
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(is_over.wait(), 10)
        for request in requests:
            request.cancel()

    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        asyncio.run(stop_with_requests())
    finally:
        signal.signal(signal.SIGTERM, before)

    assert statuses.count(503) == 2


def test_every_response_has_the_model_version() -> None:
    sent = ask(ResponseHeaders(echo, "3", Draining(2, 30)), "/anything")

    assert (b"x-model-version", b"3") in sent[0]["headers"]
    assert b"x-model-variant" not in dict(sent[0]["headers"])


def test_the_responses_of_a_variant_have_its_name() -> None:
    sent = ask(ResponseHeaders(echo, "3", Draining(2, 30), "challenger"), "/anything")

    assert dict(sent[0]["headers"])[b"x-model-variant"] == b"challenger"


@pytest.mark.parametrize(
    ("answered", "said", "expected"),
    [
        (429, [], [b"1"]),
        (503, [], [b"1"]),
        (503, [(b"Retry-After", b"20")], [b"20"]),
        (200, [], []),
        (500, [], []),
    ],
)
def test_429_and_503_responses_have_a_retry_after_header(
    answered: int, said: list[tuple[bytes, bytes]], expected: list[bytes]
) -> None:
    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": answered, "headers": said})
        await send({"type": "http.response.body", "body": b""})

    sent = ask(ResponseHeaders(busy, "3", Draining(2, 30)), "/greet")

    assert [value for name, value in sent[0]["headers"] if name.lower() == b"retry-after"] == expected


def test_a_body_is_not_read_without_memory_for_it() -> None:
    budget = MemoryBudget()
    budget.open(1000)

    sent = ask(BodyLimit(echo, 10_000, budget), "/invocations", headers={"Content-Length": "300"}, chunks=())

    assert status(sent) == 413
    assert "option memory" in body(sent)


def test_a_content_length_of_thousands_of_digits_is_too_large() -> None:
    headers = {"Content-Length": "9" * 5000}

    assert status(ask(BodyLimit(echo, 10, MemoryBudget()), "/invocations", headers=headers, chunks=())) == 413


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_a_health_check_neither_reserves_memory_nor_waits_for_it(path: str) -> None:
    budget = MemoryBudget()
    budget.open(20_000_000)

    async def healthy(scope: Scope, receive: Receive, send: Send) -> None:
        assert budget.bodies == 8_000_000
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    limit = BodyLimit(healthy, 10_000_000, budget, send_seconds=0.1)
    with new_reservation(budget) as other:
        other.add_body(8_000_000)
        assert status(ask(limit, path, headers={"Content-Length": "4000000"})) == 200


def test_a_large_response_is_sent_in_pieces_as_the_client_takes_them() -> None:
    body = bytes(range(256)) * 1000
    budget = MemoryBudget()
    reserved: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_reservation().add_body(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    sent: list[Message] = []

    async def take(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(message)
        reserved.append(budget.used)

    scope: Scope = {"type": "http", "path": "/invocations", "headers": []}
    asyncio.run(BodyLimit(app, 10, budget)(scope, receive_nothing, take))

    pieces = [message["body"] for message in sent[1:]]
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) == 1 << 16
    assert [message.get("more_body", False) for message in sent[1:]] == [True] * (len(pieces) - 1) + [False]
    assert reserved == [100] * len(sent)
    assert budget.used == 0


def test_a_client_that_takes_nothing_of_its_response_holds_no_memory_for_long() -> None:
    budget = MemoryBudget()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_reservation().add_body(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(1_000_000)})

    async def take_two(message: Message) -> None:
        taken.append(message)
        if len(taken) > 2:
            await asyncio.sleep(60)

    taken: list[Message] = []
    scope: Scope = {"type": "http", "path": "/invocations", "headers": []}
    asyncio.run(BodyLimit(app, 10, budget, send_seconds=0.1)(scope, receive_nothing, take_two))

    assert len(taken) == 3
    assert taken[-1]["more_body"]
    assert budget.used == 0


async def receive_nothing() -> Message:
    return {"type": "http.request", "body": b""}
