"""The texts that the page shows for each service; pure, except for reading log lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from typing import Any, Literal
from urllib.parse import quote

from botocore.exceptions import ClientError

from mlflow_fargate.local.engine.snapshot import PastRollout, RolloutSnapshot, ServiceSnapshot, TaskSnapshot

Tone = Literal["good", "busy", "bad", "quiet"]

_LINES_SHOWN = 200
_STREAMS_SHOWN = 3
_STOPPED_TASKS_SHOWN = 3
_EVENTS_SHOWN = 4
_TONES: dict[str, Tone] = {"SUCCESSFUL": "good", "STOPPED": "quiet", "IN_PROGRESS": "busy", "PENDING": "busy"}
Tags = Callable[[str], Mapping[str, str]]  # of a task definition, by family:revision
_PREFIX = "mlflow-fargate-"  # of mlflow-fargate's clusters: the endpoint's name follows


@dataclass(frozen=True)
class TaskRow:
    id: str
    model: str
    state: str
    tone: Tone
    process: str  # 'pid 123 · port 40001 · 90 s'
    reason: str


@dataclass(frozen=True)
class RolloutRow:
    model: str  # 'version 3'
    revision: str
    state: str
    tone: Tone
    times: str
    reason: str


@dataclass(frozen=True)
class Card:
    """One service."""

    name: str
    endpoint: str
    model: str
    model_url: str | None
    run: str
    state: str
    tone: Tone
    counts: str
    url: str | None
    logs_path: str
    rollouts: tuple[RolloutRow, ...]
    tasks: tuple[TaskRow, ...]
    events: tuple[tuple[str, str], ...]


def make_cards(
    services: Sequence[ServiceSnapshot], addresses: Mapping[str, str], now: float, tags: Tags = lambda _: {}
) -> list[Card]:
    """Returns a card for each service, by name. `now`: seconds since 1970; `tags` name the model of a revision."""
    return [_card(service, addresses, now, cache(tags)) for service in services]


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
    # Lines of one task stay in order, also those of the same millisecond.
    merged = sorted(lines, key=lambda line: line[0])
    return [(_clock_time(at / 1000), task, text) for at, task, text in merged[-_LINES_SHOWN:]]


def _lines(logs: Any, group: str, stream: str) -> list[tuple[int, str, str]]:
    found = logs.get_log_events(logGroupName=group, logStreamName=stream, limit=_LINES_SHOWN, startFromHead=False)
    task = stream.rpartition("/")[2][:8]
    return [(event["timestamp"], task, event["message"]) for event in found["events"]]


def _card(service: ServiceSnapshot, addresses: Mapping[str, str], now: float, tags: Tags) -> Card:
    primary = next((rollout for rollout in service.rollouts if rollout.status == "PRIMARY"), None)
    state, tone = _state(service, primary)
    living = [task for task in service.tasks if task.status != "STOPPED"]
    stopped = [task for task in service.tasks if task.status == "STOPPED"][:_STOPPED_TASKS_SHOWN]
    balancer, mlflow = addresses.get("load_balancer_url"), addresses.get("mlflow_tracking_uri")
    current = tags(primary.task_definition) if primary else {}
    name, version = current.get("mlflow-fargate:model"), current.get("mlflow-fargate:model-version")
    return Card(
        name=service.name,
        endpoint=service.cluster.removeprefix(_PREFIX),
        model=f"{name} version {version}" if version else name or current.get("mlflow-fargate:source", ""),
        model_url=f"{mlflow}/#/models/{quote(name, safe='')}/versions/{quote(version)}"
        if mlflow and name and version
        else None,
        run=current.get("mlflow-fargate:run-id", ""),
        state=state,
        tone=tone,
        counts=f"{service.running_count} of {service.desired_count} tasks running",
        url=f"{balancer}/{quote(service.name)}/" if balancer and service.cluster.startswith(_PREFIX) else None,
        logs_path=f"/logs/{quote(service.cluster, safe='')}/{quote(service.name, safe='')}",
        rollouts=tuple(_rollout_row(rollout, service.tasks, tags) for rollout in service.history),
        tasks=tuple(_task_row(task, now, tags) for task in (*living, *stopped)),
        events=tuple((_clock_time(at), text) for at, text in service.events[:_EVENTS_SHOWN]),
    )


def _model(revision: str, tags: Tags) -> str:
    version = tags(revision).get("mlflow-fargate:model-version")
    return f"version {version}" if version else revision


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


def _rollout_row(rollout: PastRollout, tasks: Sequence[TaskSnapshot], tags: Tags) -> RolloutRow:
    tone = _TONES.get(rollout.status, "bad")
    causes = [
        task.stopped_reason
        for task in tasks
        if tone == "bad" and task.task_definition == rollout.task_definition and task.status == "STOPPED"
    ]
    ended = f" to {_clock_time(rollout.ended_at)}" if rollout.ended_at else ""
    return RolloutRow(
        model=_model(rollout.task_definition, tags),
        revision=rollout.task_definition,
        state="failed, rolled back" if rollout.status == "ROLLBACK_SUCCESSFUL" else _words(rollout.status),
        tone=tone,
        times=f"{_clock_time(rollout.began_at)}{ended}",
        reason="\n".join(dict.fromkeys(filter(None, (rollout.reason, *causes[:1])))),
    )


def _words(status: str) -> str:
    return status.lower().replace("_", " ")


def _task_row(task: TaskSnapshot, now: float, tags: Tags) -> TaskRow:
    tone = _task_tone(task)
    health = "" if task.health == "-" or task.status != "RUNNING" else f" · {task.health}"
    parts = [f"pid {task.pid}" if task.pid else "", f"port {task.port}" if task.port else ""]
    if task.started_at and task.status != "STOPPED":
        parts.append(f"up {_age(now - task.started_at)}")
    return TaskRow(
        id=task.id[:8],
        model=_model(task.task_definition, tags),
        state=f"{task.status.lower()}{health}",
        tone=tone,
        process=" · ".join(part for part in parts if part),
        reason=task.stopped_reason or "",
    )


def _task_tone(task: TaskSnapshot) -> Tone:
    if task.status == "STOPPED":
        return "quiet" if (task.stopped_reason or "").startswith("Scaling activity") else "bad"
    return "good" if task.health in ("healthy", "-") and task.status == "RUNNING" else "busy"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0, int(seconds))} s"
    return f"{int(seconds / 60)} min" if seconds < 7200 else f"{int(seconds / 3600)} h"


def _clock_time(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, timezone.utc):%H:%M:%S}"
