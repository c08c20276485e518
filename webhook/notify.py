"""Sends notifications about finished changes to a Slack-compatible URL, an SNS topic, or both.

    worker ─► bounded queue ─► one thread ─► each channel, a few attempts

The worker never waits for this. The URL is a secret: it is never logged or part of an error.
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

_WAITING = 100  # messages beyond this are only logged
_TIMEOUT_SECONDS = 10.0
_TEXT_CHARACTERS = 2000


class Notifier:
    """Sends each outcome to each of `channels`, from its own thread."""

    def __init__(self, channels: Mapping[str, Send]) -> None:
        self._channels = channels
        self._queue: queue.Queue[Outcome | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._keep_sending, name="notify", daemon=True)

    def start(self) -> None:
        """Starts sending."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Waits up to `timeout_seconds` for queued notifications."""
        self.tell(None)
        self._thread.join(timeout_seconds)

    def tell(self, outcome: Outcome | None) -> None:
        """Queues an outcome to be sent."""
        try:
            self._queue.put_nowait(outcome)
        except queue.Full:
            logger.warning("notification dropped: the queue is full")

    def _keep_sending(self) -> None:
        while outcome := self._queue.get():
            subject, text = describe(outcome)
            for name, send in self._channels.items():
                try:
                    send(subject, text)
                except Exception as error:  # continue with the other channels; the error's text can contain the URL
                    logger.warning("cannot notify %s: %s", name, type(error).__name__)


def describe(outcome: Outcome) -> tuple[str, str]:
    """Returns subject and text of an outcome, for people."""
    model = f"model '{outcome.model_name}'"
    what = f"version {outcome.version} of {model}" if outcome.version else model
    done = {"create": f"was created with {what}", "update": f"was updated to {what}"}
    done |= {"scale_to_zero": f"({what}) was scaled to zero", "delete": f"({what}) was deleted"}
    took = format_seconds(outcome.duration_seconds)
    if outcome.result == "success":
        return f"{outcome.key}: {outcome.kind} succeeded", f"{outcome.key} {done[outcome.kind]} in {took}."
    what_then = (
        "ECS rolled back to the previous version" if outcome.result == "rollback" else "it will be retried later"
    )
    text = f"{outcome.key}: {outcome.kind} ({what}) failed after {took}; {what_then}.\n{outcome.reason}"
    return f"{outcome.key}: {outcome.result}", text[:_TEXT_CHARACTERS]


def slack_channel(url: str) -> Send:
    """Returns a sender for an incoming webhook of Slack, Mattermost, Discord (…/slack), Teams workflows or similar."""

    def send(subject: str, text: str) -> None:
        body = {"text": _escaped(text)}
        for attempt in stamina.retry_context(on=_may_heal, attempts=3, timeout=60):
            with attempt:
                # A redirect would send the text to an address that was not configured.
                response = requests.post(url, json=body, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
                response.raise_for_status()
                if response.is_redirect:
                    raise requests.TooManyRedirects

    return send


def _may_heal(error: Exception) -> bool:
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, (requests.ConnectionError, requests.Timeout))


def _escaped(text: str) -> str:
    # Otherwise a model named <!channel> notifies everyone: https://docs.slack.dev/messaging/formatting-message-text
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
