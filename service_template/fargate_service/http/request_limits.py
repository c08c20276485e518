"""Limits the number of concurrent requests and their duration, and shuts the service down cleanly.

A request that is rejected at once can be sent to another task; in a long queue it would time out before its turn.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType

from starlette.requests import Request
from starlette.responses import Response

from fargate_service.errors import RequestError
from fargate_service.http.middleware import App, Message, Receive, Scope, Send, send_error
from fargate_service.memory.reservation import current_reservation

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout  # type: ignore[import-not-found]  # aiohttp, which BentoML requires, brings it

# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")
# Before SIGKILL: enough to reject the remaining requests and to flush the sockets.
_RESERVE_SECONDS = 2.0
_FLUSH_SECONDS = 0.5

READINESS_PATHS = frozenset({"/readyz", "/ping", "/health"})
Handler = Callable[[Request], Awaitable[Response]]


class Admission:
    """Admits `limit` requests at a time and gives each `timeout_seconds`, including the upload of its body.

    Beyond that: 503 with Retry-After, so that clients and load balancers retry; 504 as in MLflow's server. A request
    keeps its place as long as its memory is reserved: until its response is sent, and after a 504 until the thread
    that computes it has finished.
    """

    def __init__(self, limit: int, timeout_seconds: float) -> None:
        self._limit = limit
        self._timeout_seconds = timeout_seconds
        self._inside = 0
        self._lock = threading.Lock()  # a thread that finishes late also leaves

    def guard(self, handler: Handler) -> Handler:
        """Returns the handler with these limits."""

        async def guarded(request: Request) -> Response:
            if self._inside >= self._limit:
                message = (
                    f"The service is already processing {self._limit} requests (MAX_CONCURRENT_REQUESTS); "
                    "retry in a second."
                )
                raise RequestError(503, message, headers={"Retry-After": "1"})
            with current_reservation().held() as reservation:
                self._move(1)
                reservation.at_end(lambda: self._move(-1))
                try:
                    async with timeout(self._timeout_seconds):
                        return await handler(request)
                except asyncio.TimeoutError as error:
                    # MLflow's words, with the limit.
                    limit = f"{self._timeout_seconds:g} s (REQUEST_TIMEOUT_SECONDS)"
                    raise RequestError(504, f"Request processing time exceeded limit of {limit}.") from error

        return guarded

    def _move(self, step: int) -> None:
        with self._lock:
            self._inside += step


class _InFlight:
    """A request in progress, with whether its response has begun."""

    def __init__(self, send: Send) -> None:
        self.answer = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        self.has_begun = True
        await self.answer(message)


class Draining:
    """Between SIGTERM and the exit: no longer ready, but still processing the requests that arrive.

    ECS usually deregisters a task from the load balancer first; where it cannot (Spot, a task stopped by hand), both
    happen at once, and closing the socket immediately would cause 502s. Requests that cannot finish before SIGKILL,
    which follows `stop_seconds` after SIGTERM, get a 503: a thread's prediction cannot be stopped, but its process can.
    """

    def __init__(self, seconds: float, stop_seconds: float, reserve_seconds: float = 0) -> None:
        self.has_begun = False
        self.in_flight: set[_InFlight] = set()
        self.at_exit: Callable[[], None] = lambda: None  # has what is left of `reserve_seconds`
        self._seconds = seconds
        self._stop_seconds = stop_seconds
        self._began = float("inf")
        self._last_moment = max(seconds, stop_seconds - _RESERVE_SECONDS - reserve_seconds)

    def seconds_left(self) -> float:
        """Returns the time until shortly before SIGKILL; all of it, if the server stops without a signal."""
        passed = max(0.0, time.monotonic() - self._began)
        return max(0.0, self._stop_seconds - _RESERVE_SECONDS / 2 - passed)

    def on_sigterm(self) -> None:
        """Runs before the server's own SIGTERM handler; call it in the main thread with a running loop."""
        before = signal.getsignal(signal.SIGTERM)
        if not callable(before):
            return  # there is no handler that would stop the server
        loop = asyncio.get_running_loop()

        def begin(number: int, frame: FrameType | None) -> None:
            # The signal can arrive twice, from the supervisor and through the process group: once is enough.
            if not self.has_begun:
                self.has_begun, self._began = True, time.monotonic()
                loop.call_soon_threadsafe(loop.call_later, self._seconds, before, number, frame)
                loop.call_soon_threadsafe(loop.call_later, self._last_moment, self._give_up)

        signal.signal(signal.SIGTERM, begin)

    def _give_up(self) -> None:
        # Tasks are kept in fields because the loop holds them only weakly.
        self._giving_up = asyncio.get_running_loop().create_task(self._refuse_all_and_exit())

    async def _refuse_all_and_exit(self) -> None:
        # Without waiting for the handlers, which may be predicting, nor for clients that read nothing.
        self._refusals = [
            asyncio.ensure_future(send_error(one.send, 503, "The server is shutting down; please retry."))
            for one in self.in_flight
            if not one.has_begun
        ]
        await asyncio.sleep(_FLUSH_SECONDS)
        logger.warning("Exiting with %d unfinished requests: stopTimeout has elapsed", len(self.in_flight))
        self.at_exit()
        logging.shutdown()
        os._exit(0)


class DrainingGate:
    """Reports the task as not ready on the health check paths once it is stopping; passes everything else on."""

    def __init__(self, app: App, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._draining.on_sigterm()  # the server has installed its own handler by now
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._draining.has_begun and scope["path"] in READINESS_PATHS:
            await send_error(send, 503, "The server is shutting down.")
        else:
            one = _InFlight(send)
            self._draining.in_flight.add(one)
            try:
                await self._app(scope, receive, one.send)
            finally:
                self._draining.in_flight.discard(one)
