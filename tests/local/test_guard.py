"""Which requests the local stack's servers accept: the decision alone, then requests to each kind of server."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.local.guard import Receive, Send, guarded_asgi, is_cors, refusal
from mlflow_fargate.local.load_balancer.rules import FixedResponse, RoutingRule
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.registry.server import USER, LocalRegistry
from mlflow_fargate.local.wsgi_server import WsgiServer

OURS = "127.0.0.1:8000"
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def decide(method: str = "GET", *, is_known_host: bool = False, **headers: str) -> str | None:
    sent = {"Host": OURS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return refusal(method, sent.get, is_known_host=is_known_host)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:8000"},
        {"Host": "LOCALHOST"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Host": "localhost:1234", "Origin": "http://localhost:1234"},  # a forwarded port
        {"Origin": "http://127.0.0.1:8000", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_programs_and_pages_of_the_server_itself_are_accepted(headers: dict[str, str]) -> None:
    assert decide("POST", **headers) is None


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example:8000",
            "localhost.evil.example",
            "localhost.",
        ),
        *("127.0.0.1:8000@evil.example", "127.0.0.2", "0.0.0.0", "127.0.0.1:", "127.0.0.1:80:80", "x@127.0.0.1"),
        *("127.0.0.1, evil.example", "127.0.0.1\n", " localhost", "localhost:8000/"),
    ],
)
def test_a_foreign_host_name_is_refused_unless_the_server_is_configured_for_it(host: str) -> None:
    said = decide(Host=host)

    assert said is not None and "use 127.0.0.1 or localhost" in said
    assert decide(Host=host, is_known_host=True) is None


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://evil.example",
            "null",
            "",
            "https://127.0.0.1:8000",
            "http://127.0.0.1:8001",
            "http://localhost:8000",
        ),
        *("http://127.0.0.1", "http://127.0.0.1:80000", "http://127.0.0.1:8000.evil.example", "file://"),
    ],
)
def test_pages_of_another_origin_are_refused_including_other_local_ports(origin: str) -> None:
    said = decide("POST", Origin=origin)

    assert said is not None and "from a program" in said


@pytest.mark.parametrize("site", ["cross-site", "same-site", "CROSS-SITE", "", "anything"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_requests_from_a_page_of_another_site_are_refused_even_without_an_origin(site: str, method: str) -> None:
    assert decide(method, Sec_Fetch_Site=site) is not None


def test_a_link_is_accepted_but_a_form_or_a_frame_is_refused() -> None:
    assert refusal("GET", {"Host": OURS, **LINK}.get) is None
    assert refusal("POST", {"Host": OURS, **LINK}.get) is not None
    assert refusal("GET", {"Host": OURS, **LINK, "Sec-Fetch-Dest": "iframe"}.get) is not None
    assert refusal("GET", {"Host": OURS, **LINK, "Sec-Fetch-Mode": "no-cors"}.get) is not None
    assert refusal("GET", {**LINK, "Host": "evil.example"}.get) is not None


@given(
    host=st.one_of(st.none(), st.text(), st.from_regex(r"(127\.0\.0\.1|localhost)(:\d+)?[a-z.@:/]*", fullmatch=True)),
    origin=st.one_of(st.none(), st.text(), st.just(f"http://{OURS}")),
    site=st.one_of(st.none(), st.text(), st.sampled_from(["none", "same-origin", "same-site", "cross-site"])),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]),
)
def test_accepted_requests_have_a_local_host_and_no_foreign_origin(
    host: str | None, origin: str | None, site: str | None, method: str
) -> None:
    sent = {"Host": host, "Origin": origin, "Sec-Fetch-Site": site}

    said = refusal(method, sent.get)

    if said is None:
        assert re.fullmatch(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", host or "", re.IGNORECASE)
        assert origin is None or origin.lower() == f"http://{host}".lower()
        assert site is None or site.lower() in ("none", "same-origin")
    else:
        assert said.endswith(".") and "\n" not in said


# Servers

FOREIGN = {
    "host": {"Host": "evil.example"},
    "origin": {"Origin": "http://evil.example"},
    "another port's page": {"Origin": "http://127.0.0.1:1"},
    "site": {"Sec-Fetch-Site": "cross-site"},
    "image of a page": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
}


def answer(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.fixture
def wsgi() -> Iterator[WsgiServer]:
    """A server whose application allows all origins, like moto."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [("Access-Control-Allow-Origin", "*"), ("access-control-expose-headers", "*")])
        return [b"done"]

    with WsgiServer(app) as server:
        yield server


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_wsgi_server_refuses_foreign_requests_with_an_explanation(
    wsgi: WsgiServer, method: str, headers: dict[str, str]
) -> None:
    status, answered, body = answer(wsgi.port, method, "/", headers)

    assert status == 403
    assert re.fullmatch(rb"[^\n]+; (use|send) [^\n]+\.\n", body)
    assert not any(is_cors(name) for name in answered)


def test_a_server_removes_the_cors_headers_of_its_application(wsgi: WsgiServer) -> None:
    status, answered, body = answer(wsgi.port, "GET", "/", {"Origin": wsgi.url})

    assert (status, body) == (200, b"done")
    assert not any(is_cors(name) for name in answered)


@pytest.fixture
def asgi() -> Iterator[int]:
    """The port of an ASGI server whose application allows all origins, as MLflow allows those of this machine."""

    async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"access-control-allow-origin", b"*"), (b"x-kept", b"yes")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"done"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(guarded_asgi(app), log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_an_asgi_server_refuses_foreign_requests_with_an_explanation(
    asgi: int, method: str, headers: dict[str, str]
) -> None:
    status, answered, body = answer(asgi, method, "/", headers)

    assert status == 403
    assert re.fullmatch(rb"[^\n]+; (use|send) [^\n]+\.\n", body)
    assert not any(is_cors(name) for name in answered)


def test_an_asgi_server_answers_its_own_pages_without_cors_headers(asgi: int) -> None:
    status, answered, body = answer(asgi, "POST", "/", {"Origin": f"http://127.0.0.1:{asgi}"})

    assert (status, body, answered["x-kept"]) == (200, b"done", "yes")
    assert not any(is_cors(name) for name in answered)


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_websocket_is_closed_before_the_application_sees_it(headers: dict[str, str]) -> None:
    async def app(*_: object) -> None:
        raise AssertionError("the application was called")

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    named = {"Host": OURS, **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    asyncio.run(_run(guarded_asgi(app)({"type": "websocket", "headers": raw}, receive, send)))

    assert sent == [{"type": "websocket.close"}]


async def _run(awaitable: Awaitable[None]) -> None:
    await awaitable


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path, password="hush") as running:
        yield running


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_the_registry_refuses_foreign_requests_even_with_its_password(
    registry: LocalRegistry, method: str, headers: dict[str, str]
) -> None:
    login = requests.auth._basic_auth_str(USER, "hush")

    status, answered, body = answer(registry.port, method, "/v2/a/blobs/uploads/", {"Authorization": login, **headers})

    assert (status, b"DENIED" in body) == (403, True)
    assert not any(is_cors(name) for name in answered)


@pytest.mark.parametrize("login", [None, (USER, "guessed"), (USER, ""), ("aws", "hush"), ("", "")])
def test_the_registry_only_accepts_its_password(registry: LocalRegistry, login: tuple[str, str] | None) -> None:
    url = f"http://{registry.address}/v2/"

    with requests.Session() as session:
        session.trust_env = False
        for method, path in {
            "GET": "",
            "POST": "a/blobs/uploads/",
            "PUT": "a/manifests/v1",
            "HEAD": "_catalog",
        }.items():
            refused = session.request(method, f"{url}{path}", auth=login)
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="local stack"')
        assert session.get(url, auth=(USER, "hush")).status_code == 200
    assert registry.store.repositories() == []


@pytest.fixture
def balancer() -> Iterator[LoadBalancer]:
    served = FixedResponse(200, "a prediction")
    with LoadBalancer() as running:
        running.set_routes(
            [
                RoutingRule(1, path_patterns=("/churn/*",), fixed_response=served),
                RoutingRule(2, host_patterns=("churn.example.com",), fixed_response=served),
            ]
        )
        yield running


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_the_load_balancer_refuses_foreign_requests_to_a_deployment(
    balancer: LoadBalancer, method: str, headers: dict[str, str]
) -> None:
    status, answered, body = answer(balancer.port, method, "/churn/invocations", headers)

    assert (status, b"prediction" in body) == (403, False)
    assert not any(is_cors(name) for name in answered)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Host", ("127.0.0.1", "evil.example")),
        ("Origin", ("http://127.0.0.1", "http://evil.example")),
        ("Sec-Fetch-Site", ("none", "cross-site")),
    ],
)
def test_a_stranger_does_not_hide_behind_a_valid_first_header(
    wsgi: WsgiServer, asgi: int, registry: LocalRegistry, balancer: LoadBalancer, name: str, values: tuple[str, str]
) -> None:
    login = requests.auth._basic_auth_str(USER, "hush")
    sent = {"Host": ("127.0.0.1",), "Authorization": (login,), name: values}
    lines = "".join(f"{header}: {value}\r\n" for header, several in sent.items() for value in several)
    for port, path in {wsgi.port: "/", asgi: "/", registry.port: "/v2/", balancer.port: "/churn/invocations"}.items():
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            # aiohttp itself answers 400 to a second Host.
            assert response.status in ({403, 400} if (port, name) == (balancer.port, "Host") else {403})


@pytest.mark.parametrize("path", ["/", "/churn/invocations"])
def test_a_deployments_host_name_is_accepted_but_not_from_foreign_pages(balancer: LoadBalancer, path: str) -> None:
    host = {"Host": f"churn.example.com:{balancer.port}"}
    own = {**host, "Origin": f"http://{host['Host']}"}

    assert answer(balancer.port, "POST", path, host)[0] == 200
    assert answer(balancer.port, "POST", path, own)[0] == 200
    assert answer(balancer.port, "POST", path, {**host, "Origin": "http://evil.example"})[0] == 403
    assert answer(balancer.port, "GET", path, {**host, "Sec-Fetch-Site": "cross-site"})[0] == 403


@pytest.mark.parametrize(
    ("pattern", "host", "status"),
    [
        ("*.example.com", "churn.example.com", 200),
        ("churn", "churn", 200),
        ("*", "evil.example", 403),
        ("?*", "evil.example", 403),
        ("*.example", "evil.example", 403),
        ("*.*.*", "a.evil.example", 403),
        ("churn.*", "churn.evil", 403),
        ("*", "127.0.0.1", 200),
    ],
)
def test_a_pattern_that_fits_strangers_hosts_lets_none_of_them_in(pattern: str, host: str, status: int) -> None:
    served = FixedResponse(200, "a prediction")
    with LoadBalancer() as balancer:
        balancer.set_routes(
            [
                RoutingRule(1, path_patterns=("/other/*",), fixed_response=served),
                RoutingRule(2, host_patterns=(pattern,), fixed_response=served),
            ]
        )
        for path in ("/", "/other/invocations"):
            assert answer(balancer.port, "POST", path, {"Host": f"{host}:{balancer.port}"})[0] == status
