"""Elects the active replica: the one that holds the lease. The others are on standby: they poll, but change nothing.

A dead holder stops renewing; after the lease expires, another replica takes over. It needs no handover: all state is in
the registry and in AWS. A holder that is cut off from S3 starts no more changes before its lease expires. A change in
progress can overlap with the new holder's first: same version, image and plan, so it is done twice, but not wrongly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from mlflow_fargate.resolved_model import without_credentials

logger = logging.getLogger(__name__)


class Lease(Protocol):
    """The lease that aws/lease.py implements."""

    @property
    def is_held(self) -> bool: ...

    def renew(self) -> bool: ...

    def release(self) -> None: ...


class LeaseKeeper:
    """Renews a lease three times per lifetime, on a thread; calls `on_taken` when it is acquired."""

    def __init__(self, lease: Lease, seconds: float, on_taken: Callable[[], None]) -> None:
        self._lease = lease
        self._pause_seconds = seconds / 3
        self._on_taken = on_taken
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def start(self) -> None:
        """Starts acquiring and renewing the lease."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Releases the lease, so that another replica does not have to wait until it expires."""
        self._stopping.set()
        self._thread.join(timeout_seconds)

    def _keep(self) -> None:
        was_held = False
        while not self._stopping.is_set():
            is_held = self._renew()
            if is_held != was_held:
                logger.info(
                    "active: this replica holds the lease" if is_held else "standby: another replica holds the lease"
                )
                was_held = is_held
                if is_held:
                    self._on_taken()
            self._stopping.wait(self._pause_seconds)
        self._lease.release()

    def _renew(self) -> bool:
        try:
            return self._lease.renew()
        except Exception as error:  # whatever the error, the next renewal may succeed
            logger.warning("cannot renew the lease: %s", without_credentials(str(error)))
            return self._lease.is_held
