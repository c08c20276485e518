"""The texts that the page shows for each service; pure, except for reading log lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal
from urllib.parse import quote

from botocore.exceptions import ClientError

from mlflow_fargate.local.engine.snapshot import RolloutSnapshot, ServiceSnapshot, TaskSnapshot

Tone = Literal["good", "busy", "bad", "quiet"]

_LINES_SHOWN = 200
_STREAMS_SHOWN = 3
_STOPPED_TASKS_SHOWN = 3
_EVENTS_SHOWN = 4
_ROLLOUT_TONES: dict[str, Tone] = {"COMPLETED": "good", "IN_PROGRESS": "busy", "FAILED": "bad"}
_PREFIX = "mlflow-fargate-"  # of mlflow-fargate's clusters: the endpoint's name follows


@dataclass(frozen=True)
class TaskRow:
    id: str
    revision: str
    state: str
    tone: Tone
    process: str  # 'pid 123 · port 40001 · 90 s'
    reason: str


@dataclass(frozen=True)
class RolloutRow:
    revision: str
    state: str
    tone: Tone
    reason: str


@dataclass(frozen=True)
class Card:
    """One service."""

    name: str
    endpoint: str
    state: str
    tone: Tone
    counts: str
    url: str | None
    logs_path: str
    rollouts: tuple[RolloutRow, ...]
    tasks: tuple[TaskRow, ...]
    events: tuple[str, ...]


def make_cards(services: Sequence[ServiceSnapshot], addresses: Mapping[str, str], now: float) -> list[Card]:
    """Returns a card for each service, by name. `now`: seconds since 1970."""
    return [_card(service, addresses, now) for service in services]


def last_lines(logs: Any, cluster: str, name: str) -> list[tuple[str, str, str]]:
    """Returns time, task and text of the newest lines of a service's tasks, oldest first; empty if there are none."""
    group = f"/mlflow-fargate/{cluster.removeprefix(_PREFIX)}/{name}"
    try:
        streams = logs.describe_log_streams(
            logGroupName=group, orderBy="LastEventTime", descending=True, limit=_STREAMS_SHOWN
        )["logStreams"]
        lines = [line for stream in streams for line in _lines(logs, group, stream["logStreamName"])]
    except ClientError:  # the group was deleted, or does not exist yet
        return []
    return [(_clock_time(at / 1000), task, text) for at, task, text in sorted(lines)[-_LINES_SHOWN:]]


def _lines(logs: Any, group: str, stream: str) -> list[tuple[int, str, str]]:
    found = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=_LINES_SHOWN, startFromHead=False)
    task = stream.rpartition("/")[2][:8]
    return [(event["timestamp"], task, event["message"]) for event in found["events"]]


def _card(service: ServiceSnapshot, addresses: Mapping[str, str], now: float) -> Card:
    primary = next((rollout for rollout in service.rollouts if rollout.status == "PRIMARY"), None)
    state, tone = _state(service, primary)
    living = [task for task in service.tasks if task.status != "STOPPED"]
    stopped = [task for task in service.tasks if task.status == "STOPPED"][:_STOPPED_TASKS_SHOWN]
    balancer = addresses.get("load_balancer_url")
    return Card(
        name=service.name,
        endpoint=service.cluster.removeprefix(_PREFIX),
        state=state,
        tone=tone,
        counts=f"{service.running_count} of {service.desired_count} tasks running",
        url=f"{balancer}/{quote(service.name)}/" if balancer and service.cluster.startswith(_PREFIX) else None,
        logs_path=f"/logs/{quote(service.cluster, safe='')}/{quote(service.name, safe='')}",
        rollouts=tuple(_rollout_row(rollout) for rollout in service.rollouts),
        tasks=tuple(_task_row(task, now) for task in (*living, *stopped)),
        events=service.events[:_EVENTS_SHOWN],
    )


def _state(service: ServiceSnapshot, primary: RolloutSnapshot | None) -> tuple[str, Tone]:
    if service.status != "ACTIVE":
        return service.status.lower(), "quiet"
    if primary is None or primary.state == "IN_PROGRESS":
        return "rolling out", "busy"
    if primary.state == "FAILED":
        return "failed", "bad"
    if service.desired_count == 0:
        return "scaled to zero", "quiet"
    return ("steady", "good") if service.running_count >= service.desired_count else ("short of tasks", "busy")


def _rollout_row(rollout: RolloutSnapshot) -> RolloutRow:
    failed = f" ({rollout.failed_tasks} failed tasks)" if rollout.failed_tasks else ""
    return RolloutRow(
        revision=rollout.task_definition,
        state=rollout.state.lower().replace("_", " "),
        tone=_ROLLOUT_TONES.get(rollout.state, "quiet"),
        reason=f"{rollout.reason}{failed}",
    )


def _task_row(task: TaskSnapshot, now: float) -> TaskRow:
    is_healthy = task.health in ("healthy", "-")
    tone: Tone = "quiet" if task.status == "STOPPED" else "good" if is_healthy and task.status == "RUNNING" else "busy"
    health = "" if task.health == "-" or task.status != "RUNNING" else f" · {task.health}"
    parts = [f"pid {task.pid}" if task.pid else "", f"port {task.port}" if task.port else ""]
    if task.started_at and task.status != "STOPPED":
        parts.append(f"up {_age(now - task.started_at)}")
    return TaskRow(
        id=task.id[:8],
        revision=task.task_definition,
        state=f"{task.status.lower()}{health}",
        tone=tone,
        process=" · ".join(part for part in parts if part),
        reason=task.stopped_reason or "",
    )


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0, int(seconds))} s"
    return f"{int(seconds / 60)} min" if seconds < 7200 else f"{int(seconds / 3600)} h"


def _clock_time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, timezone.utc):%H:%M:%S}"
