"""Decides which requests the local stack's servers accept: those from programs, and from pages the server itself sent.

Every web page open in a browser on this machine can reach a server on the loopback interface. Three headers, which
pages cannot forge, show where a request comes from:

    Host             the name in the address. A foreign name: the page's owner pointed it here (DNS rebinding)
    Origin           the page that sends the request
    Sec-Fetch-Site   how that page is related to the address: same-origin, same-site, cross-site, none (typed in)

`refusal` decides and is pure; `guarded` applies it to a WSGI application, `guarded_asgi` to an ASGI application. Other
users of this machine can set any header: signature.py keeps them out.
Source: https://www.w3.org/TR/fetch-metadata/ and "Protect your resources from web attacks with Fetch Metadata".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
Header = Callable[[str], str | None]
"""Returns a header by name, its values `joined` if it is repeated; None if the request does not have it."""

# Any port: a forwarded port keeps the host name, and a page from another port has a different origin.
_OUR_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
_OUR_SITES = ("same-origin", "none")


def refusal(method: str, header: Header, *, is_known_host: bool = False) -> str | None:
    """Returns why a request is refused, and what to do, in one sentence; None if it is accepted.

    `is_known_host`: the server is configured for the request's host name. A page of another origin can link here: it
    cannot read the response, and such a request is a GET.
    """
    host = header("Host") or ""
    if not is_known_host and not _OUR_HOST.fullmatch(host):
        return f"The local stack does not accept the host name {host!r}; use 127.0.0.1 or localhost."
    origin = header("Origin")
    if origin is not None and origin.lower() != f"http://{host}".lower():
        return f"Web pages from {origin!r} cannot call the local stack; send the request from a program."
    site = header("Sec-Fetch-Site")
    if site is not None and site.lower() not in _OUR_SITES and not _is_link(method, header):
        return f"Web pages from another origin ({site!r}) cannot call the local stack; send the request from a program."
    return None


def joined(values: Sequence[str] | None) -> str | None:
    """A repeated header as WSGI servers hand it on: all values in one, so that none hides behind another."""
    return ", ".join(values) if values else None


def guarded(app: WsgiApp) -> WsgiApp:
    """Returns `app` behind `refusal`, without CORS headers, which would let pages of other origins read responses."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def header(name: str) -> str | None:
            return environ.get(f"HTTP_{name.upper().replace('-', '_')}")

        def start_without_cors(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            return start_response(status, [pair for pair in headers if not is_cors(pair[0])], *error)

        said = refusal(environ["REQUEST_METHOD"], header)
        if said is None:
            return app(environ, start_without_cors)
        body = f"{said}\n".encode()
        start_response("403 Forbidden", [*REFUSAL_HEADERS, ("Content-Length", str(len(body)))])
        return [body]

    return answer


def guarded_asgi(app: AsgiApp) -> AsgiApp:
    """Returns `app` behind `refusal`, as `guarded` does; a refused WebSocket is closed before it opens (403)."""

    async def answer(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        def header(name: str) -> str | None:
            return joined([value.decode("latin-1") for key, value in scope["headers"] if key.decode() == name.lower()])

        async def send_without_cors(message: dict[str, Any]) -> None:
            kept = [pair for pair in message.get("headers", ()) if not is_cors(pair[0].decode("latin-1"))]
            await send({**message, "headers": kept} if "headers" in message else message)

        said = None if scope["type"] == "lifespan" else refusal(scope.get("method", "GET"), header)
        if said is None:
            await app(scope, receive, send_without_cors)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            headers = [(name.lower().encode(), value.encode()) for name, value in REFUSAL_HEADERS]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{said}\n".encode()})

    return answer


REFUSAL_HEADERS = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))


def is_cors(header_name: str) -> bool:
    return header_name.lower().startswith("access-control-")


def _is_link(method: str, header: Header) -> bool:
    """Returns whether the browser opens the address as a page of its own, not in a frame."""
    return method == "GET" and header("Sec-Fetch-Mode") == "navigate" and header("Sec-Fetch-Dest") == "document"
