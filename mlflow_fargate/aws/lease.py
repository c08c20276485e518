"""A lease held by one of several processes: an object in S3, written only if no other process has written it.

    absent ──If-None-Match: *──► held by A ──A writes again, If-Match──► held by A …
                                    │ not written again for `seconds`, by the clock of another process
                                    └──If-Match──► held by B

Clocks are not compared: each process measures how long *it* has seen the object unchanged, like Kubernetes' leader
election. S3 decides which of several writers was first.
Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError

# Another process was first: the object exists, has changed, is gone, or is being written right now.
_LOST = {"PreconditionFailed", "NoSuchKey", "ConditionalRequestConflict", "404", "409", "412"}
# For clocks that run at different speeds, and so that a process that lost the lease stops before another starts.
_MARGIN = 0.8
_CONTENT_BYTES = 1024
_RELEASED = b'"released"'


class S3Lease:
    """One process's view of the lease at `s3://BUCKET/KEY`. Only `is_held` can be shared between threads."""

    def __init__(
        self, session: AwsSession, uri: str, holder: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._session = session
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self._place = {"Bucket": bucket, "Key": key}
        self._holder = holder
        self._seconds = seconds
        self._clock = clock
        self._writes = itertools.count()
        self._own_tag: str | None = None  # of this process's last write
        self._seen: tuple[str, float] = ("", 0.0)  # another process's tag, and since when it is seen
        self._held_until = float("-inf")

    @property
    def is_held(self) -> bool:
        """True while no other process can have acquired it."""
        return self._clock() < self._held_until

    def renew(self) -> bool:
        """Acquires or keeps the lease; returns False if another process holds it. Raises AwsError if S3 fails."""
        if self._own_tag is not None and self._write(IfMatch=self._own_tag):
            return True
        self._own_tag, self._held_until = None, float("-inf")
        found = self._read()
        if found is None:
            return self._write(IfNoneMatch="*")
        tag, is_free = found
        now = self._clock()
        if tag != self._seen[0]:
            self._seen = (tag, now)
        if is_free or now - self._seen[1] >= self._seconds:
            return self._write(IfMatch=tag)
        return False

    def release(self) -> None:
        """Gives the lease up at once, if this process holds it."""
        self._held_until = float("-inf")
        if self._own_tag is not None:
            with contextlib.suppress(AwsError):  # it expires anyway
                self._put({"released": True}, IfMatch=self._own_tag)
        self._own_tag = None

    def _write(self, **condition: str) -> bool:
        began = self._clock()
        try:
            # Each write differs, so that its ETag shows other processes that the holder is alive.
            self._own_tag = self._put({"holder": self._holder, "write": next(self._writes)}, **condition)
        except AwsError as error:
            if error.code in _LOST:
                return False
            raise
        self._held_until = began + _MARGIN * self._seconds
        return True

    def _put(self, content: dict[str, object], **condition: str) -> str:
        body = json.dumps(content).encode()
        answer = self._session.call("s3", "put_object", **self._place, Body=body, **condition)
        return str(answer["ETag"])

    def _read(self) -> tuple[str, bool] | None:
        try:
            answer = self._session.call("s3", "get_object", **self._place)
        except AwsError as error:
            if error.code in _LOST:
                return None
            raise
        with contextlib.closing(answer["Body"]) as body:
            content = body.read(_CONTENT_BYTES)
        # It may be this process's without its knowledge: the response to the last write was lost.
        return str(answer["ETag"]), _RELEASED in content or self._holder.encode() in content
