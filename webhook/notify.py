"""Tells people what became of a change: a Slack-compatible address, an SNS topic, or both.

    worker ─► queue of bounded length ─► one thread ─► each channel, a few tries

The worker never waits for this. The address is a secret: it stands in no log and in no error.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping

import requests
import stamina

from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.http.page import format_seconds

logger = logging.getLogger(__name__)

Send = Callable[[str, str], None]  # subject, text

_WAITING = 100  # more than that within a sender's time-outs, and the log has to do
_TIMEOUT_SECONDS = 10.0
_TEXT_CHARACTERS = 2000


class Notifier:
    """Sends each outcome to each of `channels`, from a thread of its own."""

    def __init__(self, channels: Mapping[str, Send]) -> None:
        self._channels = channels
        self._queue: queue.Queue[Outcome | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._keep_sending, name="notify", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Waits for what is still to be sent, for so long."""
        self.tell(None)
        self._thread.join(timeout_seconds)

    def tell(self, outcome: Outcome | None) -> None:
        """Has an outcome sent some time soon."""
        try:
            self._queue.put_nowait(outcome)
        except queue.Full:
            logger.warning("too many notifications wait: this one is not sent")

    def _keep_sending(self) -> None:
        while outcome := self._queue.get():
            subject, text = describe(outcome)
            for name, send in self._channels.items():
                try:
                    send(subject, text)
                except Exception as error:  # the others are still told; an error's text may hold the address
                    logger.warning("%s was not notified: %s", name, type(error).__name__)


def describe(outcome: Outcome) -> tuple[str, str]:
    """Subject and text of an outcome, for people."""
    what = f"version {outcome.version} of '{outcome.model_name}'" if outcome.version else f"'{outcome.model_name}'"
    done = {"create": "created with", "update": "updated to", "scale_to_zero": "scaled to zero:", "delete": "deleted:"}
    took = f"after {format_seconds(outcome.duration_seconds)}"
    if outcome.result == "success":
        return f"{outcome.key}: {outcome.kind} done", f"{outcome.key} was {done[outcome.kind]} {what} {took}."
    what_then = "ECS went back to what ran before" if outcome.result == "rollback" else "it is tried again later"
    text = f"{outcome.key}: {outcome.kind} ({what}) failed {took}; {what_then}.\n{outcome.reason}"
    return f"{outcome.key}: {outcome.result}", text[:_TEXT_CHARACTERS]


def slack_channel(url: str) -> Send:
    """Sends to an incoming webhook of Slack, Mattermost, Discord (…/slack), Teams workflows or the like."""

    def send(subject: str, text: str) -> None:
        body = {"text": _escaped(text)}
        for attempt in stamina.retry_context(on=_may_heal, attempts=3, timeout=60):
            with attempt:
                # A redirection would take the text to a place that nobody named.
                answer = requests.post(url, json=body, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
                answer.raise_for_status()
                if answer.is_redirect:
                    raise requests.TooManyRedirects

    return send


def _may_heal(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, (requests.ConnectionError, requests.Timeout))


def _escaped(text: str) -> str:
    # Else a model named <!channel> calls everybody: https://docs.slack.dev/messaging/formatting-message-text
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
