"""MLflow's own client without redirects, for as long as credentials are on their way.

MLflow sends requests with `requests`, which follows redirects. To another origin it drops `Authorization`, but nothing
else: headers of MLflow's request header providers and auth providers, the workspace, and the body of a 307 or 308 go
along. A redirect within one origin is not told apart, and MLflow's server makes none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType

_SETTING = "MLFLOW_ALLOW_HTTP_REDIRECTS"


class RefusingRedirects(contextlib.ContextDecorator):
    """MLflow's own client follows no redirect meanwhile.

    MLflow reads its setting for this from the environment at each request, and offers no other way. Counted, because
    several threads resolve models at once: the last one restores what was there.
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
