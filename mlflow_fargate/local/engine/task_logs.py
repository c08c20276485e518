"""Sends tasks' output to CloudWatch Logs: collected line by line, sent in batches by one thread."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from mlflow_fargate.local.moto_client import MotoClient
from mlflow_fargate.local.task_definition import LogSettings

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.3
_BATCH_EVENTS = 1000  # PutLogEvents accepts 10,000 events and 1 MiB; lines of a crash are long


class LogGroupMissing(Exception):
    """The message is what ECS writes after 'ResourceInitializationError: '."""


@dataclass
class LogStream:
    """The stream that a task writes to; without log settings, lines only go to the task's file."""

    group: str | None
    name: str
    lines: list[tuple[int, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, line: str) -> None:
        if self.group is None or not line:  # CloudWatch refuses empty events
            return
        with self.lock:
            self.lines.append((int(time.time() * 1000), line))

    def take(self) -> list[tuple[int, str]]:
        with self.lock:
            taken, self.lines = self.lines[:_BATCH_EVENTS], self.lines[_BATCH_EVENTS:]
        return taken


class LogShipper:
    """Periodically sends what its streams collected, until it is stopped."""

    def __init__(self, aws: MotoClient) -> None:
        self._aws = aws
        self._streams: dict[tuple[str, str], LogStream] = {}  # by task and container
        self._sending = threading.Lock()  # keeps the batches of a stream in their order
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="task-logs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._ship_all()

    def open(self, settings: LogSettings | None, container: str, task_id: str) -> LogStream:
        """Opens a log stream for a task's container; LogGroupMissing if the group does not exist."""
        if settings is None:
            return LogStream(None, task_id)
        stream = LogStream(settings.group, f"{settings.prefix}/{container}/{task_id}")
        try:
            self._aws.client("logs").create_log_stream(logGroupName=stream.group, logStreamName=stream.name)
        except ClientError as error:
            said = error.response["Error"]
            if said["Code"] != "ResourceAlreadyExistsException":
                raise LogGroupMissing(
                    "failed to validate logger args: create stream has been retried 1 times: failed to create "
                    f"Cloudwatch log stream: {said['Code']}: {said['Message']} : exit status 1"
                ) from error
        self._streams[task_id, container] = stream
        return stream

    def close(self, task_id: str) -> None:
        """Sends everything the task wrote to CloudWatch before it returns."""
        for key in [key for key in self._streams if key[0] == task_id]:
            self._ship(self._streams.pop(key))

    def _run(self) -> None:
        while not self._stopping.wait(FLUSH_SECONDS):
            self._ship_all()

    def _ship_all(self) -> None:
        for stream in list(self._streams.values()):
            self._ship(stream)

    def _ship(self, stream: LogStream) -> None:
        with self._sending:
            while lines := stream.take():
                events: list[dict[str, Any]] = [{"timestamp": at, "message": line} for at, line in lines]
                try:
                    self._aws.client("logs").put_log_events(
                        logGroupName=stream.group, logStreamName=stream.name, logEvents=events
                    )
                except ClientError as error:
                    # As on Fargate: if its log group is deleted, a running task loses log lines but keeps running.
                    logger.warning("lines for %s %s are lost: %s", stream.group, stream.name, error)
