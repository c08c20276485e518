"""How much the service takes on: so many requests at once, each for so long; and none to wait for when it is to end.

A request that is refused at once can be sent to another task; one that waits in a long line has timed out by its turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from starlette.requests import Request
from starlette.responses import Response

from fargate_service.errors import RequestError
from fargate_service.http.middleware import App, Message, Receive, Scope, Send, send_error

# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")
# Before SIGKILL: enough to refuse who is left, and to get that out of the sockets.
_RESERVE_SECONDS = 2.0
_FLUSH_SECONDS = 0.5

READINESS_PATHS = frozenset({"/readyz", "/ping", "/health"})
Handler = Callable[[Request], Awaitable[Response]]


class Admission:
    """Lets `limit` requests in at a time, and gives each `timeout_seconds`, its body's upload included.

    Beyond: 503 with Retry-After, so that clients and load balancers may come again; 504 as MLflow's server has it.
    """

    def __init__(self, limit: int, timeout_seconds: float) -> None:
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._inside = 0

    def guard(self, handler: Handler) -> Handler:
        """The handler behind these limits."""

        async def guarded(request: Request) -> Response:
            if self._inside >= self._limit:
                message = f"{self._limit} requests are being answered already; try again in a second."
                raise RequestError(503, message, headers={"Retry-After": "1"})
            with self.place():
                try:
                    return await asyncio.wait_for(handler(request), self._timeout_seconds)
                except asyncio.TimeoutError as error:
                    raise RequestError(504, "Request processing time exceeded limit") from error

        return guarded

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places, taken; for answers that go on after their handler has returned."""
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class _InFlight:
    """A request whose answer has not begun, as the end of a task sees it."""

    def __init__(self, send: Send) -> None:
        self.answer = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        self.has_begun = True
        await self.answer(message)


class Draining:
    """Between SIGTERM and the end: not ready any more, but still answering whoever has not heard of it yet.

    ECS usually takes a task off the load balancer first; where it cannot (Spot, a task stopped by hand), both happen
    at once, and a socket closed at once would be a 502 for somebody. Whoever cannot be answered before SIGKILL, which
    comes `stop_seconds` after SIGTERM, is told so: a prediction in a thread cannot be ended, but its process can.
    """

    def __init__(self, seconds: float, stop_seconds: float) -> None:
        self.has_begun = False
        self.in_flight: set[_InFlight] = set()
        self._seconds = seconds
        self._last_moment = max(seconds, stop_seconds - _RESERVE_SECONDS)

    def on_sigterm(self) -> None:
        """Puts itself before the server's own handling of SIGTERM; to be called in the main thread, with a loop."""
        before = signal.getsignal(signal.SIGTERM)
        if not callable(before):
            return  # nobody would end the server
        loop = asyncio.get_running_loop()

        def begin(number: int, frame: FrameType | None) -> None:
            # The supervisor and whoever signals the whole process group both say so: once is enough.
            if not self.has_begun:
                self.has_begun = True
                loop.call_soon_threadsafe(loop.call_later, self._seconds, before, number, frame)
                loop.call_soon_threadsafe(loop.call_later, self._last_moment, self._give_up)

        signal.signal(signal.SIGTERM, begin)

    def _give_up(self) -> None:
        # Held, because the loop itself holds tasks only weakly.
        self._giving_up = asyncio.get_running_loop().create_task(self._refuse_all_and_exit())

    async def _refuse_all_and_exit(self) -> None:
        for one in [one for one in self.in_flight if not one.has_begun]:
            # Not waiting for the handler: it may be in the middle of a prediction.
            await send_error(one.send, 503, "This task ends before the request can be answered; send it again.")
        await asyncio.sleep(_FLUSH_SECONDS)
        logger.warning("Ended with %d requests unanswered, as stopTimeout is over", len(self.in_flight))
        logging.shutdown()
        os._exit(0)


class DrainingGate:
    """Says on the paths of health checks that the task is not ready, once it is to end; passes all else on."""

    def __init__(self, app: App, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._draining.on_sigterm()  # the server has put its own handler in place by now
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._draining.has_begun and scope["path"] in READINESS_PATHS:
            await send_error(send, 503, "This task is about to end.")
        else:
            one = _InFlight(send)
            self._draining.in_flight.add(one)
            try:
                await self._app(scope, receive, one.send)
            finally:
                self._draining.in_flight.discard(one)
