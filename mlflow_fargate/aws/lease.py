"""A lease that one of several processes holds: an object in S3, written only on the condition that nobody else did.

    absent ──If-None-Match: *──► held by A ──A writes again, If-Match──► held by A …
                                    │ not written again for `seconds`, by the clock of whoever watches
                                    └──If-Match──► held by B

No two clocks are compared: each process measures how long *it* has seen the object unchanged, as Kubernetes' leader
election does. S3 decides who of several writers was first.
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

# Another was first: the object is there, is another, is gone, or is being written this moment.
_LOST = {"PreconditionFailed", "NoSuchKey", "ConditionalRequestConflict", "404", "409", "412"}
# For clocks that run at different speeds, and so that whoever lost it stops before another begins.
_MARGIN = 0.8
_CONTENT_BYTES = 1024
_RELEASED = b'"released"'


class S3Lease:
    """One process's view of the lease at `s3://BUCKET/KEY`. Not for sharing between threads, except `is_held`."""

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
        self._own_tag: str | None = None  # of what we wrote last
        self._seen: tuple[str, float] = ("", 0.0)  # another's tag, and since when we see it
        self._held_until = float("-inf")

    @property
    def is_held(self) -> bool:
        """True while nobody else can have taken it."""
        return self._clock() < self._held_until

    def renew(self) -> bool:
        """Takes the lease or keeps it; False when another has it. AwsError when S3 cannot be asked."""
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
        """Lets another take it at once, if it is ours."""
        self._held_until = float("-inf")
        if self._own_tag is not None:
            with contextlib.suppress(AwsError):  # it runs out by itself
                self._put({"released": True}, IfMatch=self._own_tag)
        self._own_tag = None

    def _write(self, **condition: str) -> bool:
        began = self._clock()
        try:
            # Each write differs, so that its tag tells those who watch that the holder lives.
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
        # Ours without our knowing: the answer to our last write was lost.
        return str(answer["ETag"]), _RELEASED in content or self._holder.encode() in content
