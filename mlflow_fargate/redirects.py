"""Turns off redirects in MLflow's client while it sends credentials.

MLflow uses `requests`, which follows redirects. To another origin it drops only `Authorization`, but still sends the
headers of MLflow's request header providers and auth providers, the workspace, and the body of a 307 or 308. Redirects
within one origin are refused as well; MLflow's server does not send any.
"""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType

_SETTING = "MLFLOW_ALLOW_HTTP_REDIRECTS"


class RefusingRedirects(contextlib.ContextDecorator):
    """A context in which MLflow's client does not follow redirects.

    MLflow reads this setting from the environment at each request; there is no other way to set it. Contexts are
    counted, because several threads resolve models at once: the last one restores the previous value.
    """

    _lock = threading.Lock()
    _holders = 0
    _before: str | None = None

    def __enter__(self) -> None:
        kind = RefusingRedirects
        with kind._lock:
            if not kind._holders:
                kind._before = os.environ.get(_SETTING)
                os.environ[_SETTING] = "false"
            kind._holders += 1

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        kind = RefusingRedirects
        with kind._lock:
            kind._holders -= 1
            if kind._holders:
                return
            if kind._before is None:
                os.environ.pop(_SETTING, None)
            else:
                os.environ[_SETTING] = kind._before
