"""Writes rows to S3 in the background: a bounded queue, and a thread that is never waited for until the task stops.

Rows become one gzip file an hour, a minute or 5 MB, whichever is first. What finds no room in the queue, or cannot be
written for a minute, is lost: counted, logged, and shown at /metrics.
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from bentoml.metrics import Counter

from fargate_service.record.s3 import NotWritten

MOST_BYTES = 16 << 20  # of bodies, in requests in progress and in the queue
_FILE_BYTES, _FILE_SECONDS, _LOOK_SECONDS = 5 << 20, 60.0, 1.0
_GIVE_UP_SECONDS, _LONGEST_PAUSE_SECONDS = 60.0, 10.0
_ROW_BYTES = 1000  # of what a row has besides bodies
# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")
_COUNTED = Counter("inference_log_records_total", "Records of requests by what became of them.", ["result"])

Row = Callable[[], tuple[str, bytes]]
"""Makes the partition (date=…/hour=…) and the line of a row; called in the thread."""


class Writer:
    """Puts files below `folder`; `put` raises NotWritten."""

    def __init__(self, folder: str, put: Callable[[str, bytes], None]) -> None:
        self._folder, self._put = folder, put
        self._room, self._lock = MOST_BYTES, threading.Lock()
        self._queue: deque[tuple[Row, int]] = deque()
        self._file, self._partition, self._rows, self._begun = io.BytesIO(), "", 0, 0.0
        self._zip: Any = None
        self._left = self._lost = 0  # rows that are neither written nor lost; and lost ones that are not logged yet
        self._closing = threading.Event()
        self._until = float("inf")
        self._identity, self._number = "", 0
        self._thread = threading.Thread(target=self._run, name="inference-log", daemon=True)

    def start(self, identity: str) -> None:
        """Starts the thread; files are called IDENTITY-PROCESS-NUMBER.jsonl.gz."""
        self._identity = f"{identity}-{os.getpid()}"
        for result in ("written", "lost"):  # shown from the start, as 0
            _COUNTED.labels(result=result)
        self._thread.start()

    def take_room(self, size: int) -> bool:
        """Returns whether there is room for `size` more bytes, which are then taken."""
        with self._lock:
            has_room = self._room >= size
            self._room -= size if has_room else 0
        return has_room

    def free_room(self, size: int) -> None:
        with self._lock:
            self._room += size

    def add(self, row: Row, held: int, *, is_lost: bool) -> None:
        """Queues a row, for which `held` bytes were taken; `is_lost`: there was no room for all of it."""
        with self._lock:
            self._left += 1
        if is_lost or not self.take_room(_ROW_BYTES):
            self.free_room(held)
            self._settle(1, "lost")
        else:
            self._queue.append((row, held + _ROW_BYTES))

    def close(self, seconds: float) -> None:
        """Writes what is left, for at most `seconds`; can be called again."""
        self._until = time.monotonic() + seconds
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))
        self._settle(self._left, "lost")
        self._tell("the task ended before S3 took them")

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closing.wait(_LOOK_SECONDS)
            while self._queue:
                row, size = self._queue.popleft()
                self._append(row)
                self.free_room(size)
            if self._rows and (is_last or time.monotonic() - self._begun > _FILE_SECONDS):
                self._send()
            self._tell("the queue was full")

    def _append(self, row: Row) -> None:
        try:
            partition, line = row()
        except Exception:
            logger.exception("inference log: a record could not be made")
            self._settle(1, "lost")
            return
        if self._rows and (partition != self._partition or self._file.tell() > _FILE_BYTES):
            self._send()
        if not self._rows:
            self._file, self._partition, self._begun = io.BytesIO(), partition, time.monotonic()
            self._zip = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=5)
        self._zip.write(line)
        self._rows += 1

    def _send(self) -> None:
        """Puts the file; tries again for a minute, or until the task ends."""
        self._zip.close()
        key = f"{self._folder}{self._partition}/{self._identity}-{self._number}.jsonl.gz"
        self._number += 1
        give_up, pause = time.monotonic() + _GIVE_UP_SECONDS, 0.5
        while True:
            try:
                self._put(key, self._file.getvalue())
                self._settle(self._rows, "written")
                break
            except NotWritten as error:
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                if time.monotonic() + pause > min(give_up, self._until):
                    self._settle(self._rows, "lost")
                    self._tell(str(error))
                    break
                (time.sleep if self._closing.is_set() else self._closing.wait)(pause)
        self._rows = 0

    def _settle(self, count: int, result: str) -> None:
        with self._lock:
            self._left -= count
            self._lost += count if result == "lost" else 0
        _COUNTED.labels(result=result).inc(count)

    def _tell(self, why: str) -> None:
        with self._lock:
            lost, self._lost = self._lost, 0
        if lost:
            logger.warning("inference log: %d record%s lost: %s", lost, "s were" if lost > 1 else " was", why)
