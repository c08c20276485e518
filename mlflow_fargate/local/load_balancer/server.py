"""An ALB on this machine: a listener that sends requests to the targets in its rules.

`LoadBalancer` runs its own event loop in a thread; rules.py decides, proxy.py forwards.
It supports plain HTTP/1.1 on the loopback interface only: no TLS, no HTTP/2, no WebSocket, no stickiness.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType

from aiohttp import web

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.load_balancer.counts import TrafficCounts
from mlflow_fargate.local.load_balancer.proxy import HEADER_MAX_BYTES, Proxy
from mlflow_fargate.local.load_balancer.rules import DEFAULT_RULE, RoutingRule

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_SHUTDOWN_SECONDS = 0.5  # for requests in progress when the load balancer itself is stopped


class LoadBalancer:
    """A listener on 127.0.0.1 between start() and stop() (or in a `with`); set_routes() can be called at any time."""

    def __init__(self, *, port: int = 0, idle_timeout_seconds: float = 60.0) -> None:
        self._port = port
        self.counts = TrafficCounts()
        self._proxy = Proxy(idle_timeout_seconds, self.counts)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None

    def set_routes(self, rules: Iterable[RoutingRule], default: RoutingRule = DEFAULT_RULE) -> None:
        """Sets the rules from the next request on; requests in progress finish at their target even if it is removed.

        `default` handles requests that no rule matches; its patterns are ignored.
        """
        last = replace(default, path_patterns=(), host_patterns=(), header_patterns=())
        # One assignment: a request sees either all the old rules or all the new ones.
        self._proxy.rules = (*sorted(rules, key=lambda rule: rule.priority), last)

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start if a free port is to be chosen."""
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> LoadBalancer:
        """Starts listening; LocalStackError if the port is taken."""
        listening: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(listening)), name="alb", daemon=True)
        self._thread.start()
        try:
            self._port = listening.result(_START_SECONDS)
        except OSError as error:
            self._thread.join(_STOP_SECONDS)
            self._thread = None
            raise LocalStackError(
                f"The local load balancer cannot listen on 127.0.0.1:{self._port} ({error.strerror}).",
                hint="choose another port, or 0 for a free one",
            ) from error
        return self

    def stop(self) -> None:
        """Ends the thread and every connection."""
        if self._thread is None or self._loop is None or self._stopped is None:
            return
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_STOP_SECONDS)
        self._thread = self._loop = self._stopped = None

    async def _run(self, listening: Future[int]) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        # Bodies pass unchanged: neither side may decompress what the other compressed.
        server = web.Server(
            self._proxy.handle,
            access_log=None,
            auto_decompress=False,
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", self._port).start()
        except OSError as error:
            await runner.cleanup()
            listening.set_exception(error)
            return
        async with self._proxy.connected(port := runner.addresses[0][1]):
            listening.set_result(port)
            await self._stopped.wait()
            await runner.cleanup()

    def __enter__(self) -> LoadBalancer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
