"""The rows of the page, computed from what the worker observed. Pure; the template renders them.

Every text can come from someone hostile (names of models, error messages): the template escapes everything, and only
http(s) URLs become links.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import quote

from mlflow_fargate.resolved_model import web_url
from mlflow_fargate.webhook.control_loop.worker import Seen

Tone = Literal["good", "busy", "warn", "bad", "quiet"]


@dataclass(frozen=True)
class Moment:
    """A point in time, for people and as ISO 8601."""

    text: str  # '3 min ago'
    iso: str


@dataclass(frozen=True)
class LastRollout:
    """The last change; `duration` is known only if this process made it."""

    at: Moment
    result: str | None = None
    version: str | None = None
    duration: str | None = None


@dataclass(frozen=True)
class Row:
    """One watched deployment."""

    deployment: str
    model: str
    follow: str
    wanted_version: str | None
    deployed_version: str | None
    state: str
    tone: Tone
    reason: str
    error: str | None = None
    last_rollout: LastRollout | None = None
    model_url: str | None = None
    wanted_url: str | None = None
    deployed_url: str | None = None
    swagger_url: str | None = None


_ORDER: dict[Tone, int] = {"bad": 0, "warn": 1, "busy": 2, "good": 3, "quiet": 4}


def make_rows(seen: Iterable[Seen], mlflow_url: str | None, now: float) -> list[Row]:
    """Returns a row per deployment, those that need attention first. `now`: seconds since 1970."""
    rows = [_row(one, mlflow_url, now) for one in seen]
    return sorted(rows, key=lambda row: (_ORDER[row.tone], row.deployment))


def _row(seen: Seen, mlflow_url: str | None, now: float) -> Row:
    deployed, action = seen.deployed, seen.action
    state, tone = state_of(seen)
    name = deployed.model_name
    model_url = f"{mlflow_url}/#/models/{quote(name, safe='')}" if mlflow_url and name else None

    def version_url(version: str | None) -> str | None:
        return f"{model_url}/versions/{quote(version, safe='')}" if model_url and version else None

    url = web_url(deployed.url)
    return Row(
        deployment=deployed.key,
        model=name or "",
        follow=deployed.follow,
        wanted_version=action.version,
        deployed_version=deployed.model_version,
        state=state,
        tone=tone,
        reason=action.reason,
        error=_error(seen),
        last_rollout=_last_rollout(seen, now),
        model_url=model_url,
        wanted_url=version_url(action.version),
        deployed_url=version_url(deployed.model_version),
        swagger_url=f"{url}/" if url else None,
    )


def state_of(seen: Seen) -> tuple[str, Tone]:
    """Returns a deployment's state in a word or two, and its severity."""
    if seen.is_updating or seen.deployed.state == "IN_PROGRESS":
        return "rolling out", "busy"
    if seen.action.kind == "nothing":
        return _state_at_rest(seen)
    if seen.action.kind == "blocked":
        return "blocked", "bad"
    return ("on hold", "warn") if seen.action.warning else ("update pending", "busy")


def _state_at_rest(seen: Seen) -> tuple[str, Tone]:
    if seen.deployed.state == "FAILED":
        return "failed", "bad"
    if not seen.deployed.is_watched:
        return "pinned", "warn" if seen.action.warning else "quiet"
    if seen.action.version is None:
        return "scaled to zero", "quiet"
    return "up to date", "warn" if seen.action.warning else "good"


def _error(seen: Seen) -> str | None:
    outcome = seen.last_outcome
    if outcome is not None and outcome.result != "success":
        return outcome.reason
    if seen.deployed.state == "FAILED" and seen.deployed.state_reason:
        return seen.deployed.state_reason
    return seen.action.warning if seen.action.warning != seen.action.reason else None


def _last_rollout(seen: Seen, now: float) -> LastRollout | None:
    outcome = seen.last_outcome
    if outcome is not None:
        ended = outcome.began + outcome.duration_seconds
        duration = format_seconds(outcome.duration_seconds)
        return LastRollout(make_moment(ended, now), outcome.result, outcome.version, duration)
    updated_at = _seconds(seen.deployed.updated_at)
    return LastRollout(make_moment(updated_at, now), version=seen.deployed.model_version) if updated_at else None


def _seconds(iso: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat((iso or "").replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def make_moment(moment: float, now: float) -> Moment:
    """Returns a point in time before `now`; both in seconds since 1970."""
    iso = datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")
    return Moment(f"{format_seconds(max(0.0, now - moment))} ago", iso)


def format_seconds(seconds: float) -> str:
    """'42 s', '3 min', '5 h', '2 days': no more precise than is useful."""
    if seconds < 120:
        return f"{math.floor(seconds)} s"
    if seconds < 2 * 3600:
        return f"{math.floor(seconds / 60)} min"
    if seconds < 48 * 3600:
        return f"{math.floor(seconds / 3600)} h"
    return f"{math.floor(seconds / 86_400)} days"
