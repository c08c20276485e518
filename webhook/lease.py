"""Which of several replicas acts: the one that holds the lease. The others look, show and wait.

A holder that dies stops writing; after the lease's time another takes it, looks, and goes on: all that there is to know
stands in the registry and in AWS. A holder that is cut off from S3 begins nothing more before its time is over. What it
had begun may overlap with the other's first look: the same version, image and plan, so it is done twice, not wrongly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from mlflow_fargate.resolved_model import without_credentials

logger = logging.getLogger(__name__)


class Lease(Protocol):
    """What aws/lease.py gives."""

    @property
    def is_held(self) -> bool: ...

    def renew(self) -> bool: ...

    def release(self) -> None: ...


class LeaseKeeper:
    """Renews a lease three times in its life, from a thread; `on_taken` is called when it becomes ours."""

    def __init__(self, lease: Lease, seconds: float, on_taken: Callable[[], None]) -> None:
        self._lease = lease
        self._pause_seconds = seconds / 3
        self._on_taken = on_taken
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def start(self) -> None:
        """Begins to ask for the lease."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Gives the lease back, so that another need not wait for its end."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def _keep(self) -> None:
        was_held = False
        while not self._stopping.is_set():
            is_held = self._renew()
            if is_held != was_held:
                logger.info("this replica acts" if is_held else "another replica acts; this one waits")
                was_held = is_held
                if is_held:
                    self._on_taken()
            self._stopping.wait(self._pause_seconds)
        self._lease.release()

    def _renew(self) -> bool:
        try:
            return self._lease.renew()
        except Exception as error:  # whatever S3 said, it may answer the next time
            logger.warning("the lease could not be renewed: %s", without_credentials(str(error)))
            return self._lease.is_held
