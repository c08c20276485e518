"""ECS: waits for one rollout, and explains why it failed.

A rollout succeeded if ECS reports the deployment that our call started as COMPLETED and enough targets are healthy.
boto3's `services_stable` waiter is not enough: it passes for a new service without a healthy target and after
a rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_fargate.aws import service_deployments
from mlflow_fargate.aws.ecs_service import describe_service, primary_deployment
from mlflow_fargate.aws.resource_types.monitoring.alarms import read_alarms
from mlflow_fargate.aws.resource_types.target_group import TargetGroupType
from mlflow_fargate.aws.rollouts.new_tasks import NewTasks
from mlflow_fargate.aws.rollouts.stopped_tasks import read_stopped_tasks
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import Alarm, RequestedRollout
from mlflow_fargate.errors import AwsError, FargateError, RolloutFailed, RolloutReplaced, RolloutTimeout
from mlflow_fargate.progress import Progress, shorten_arns
from mlflow_fargate.stop_reasons import hint_for_event

# ECS allows 20 reads per second and account; a rollout takes minutes on AWS and seconds on the local stack.
_FIRST_POLL_SECONDS = 0.5
_LAST_POLL_SECONDS = 5.0
_SHOWN_LINES = 20  # of a container that names no cause


# Is called each time more of the new tasks answer, with their number and the desired one; True ends the wait.
OnAnswer = Callable[[int, int], bool]


@dataclass
class RolloutWatch:
    """Waits for one rollout of a service; keeps what was already reported."""

    session: AwsSession
    cluster: str
    service: str
    rollout: RequestedRollout
    progress: Progress
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    on_answer: OnAnswer | None = None
    _answering: int = 0
    _was_in_progress: bool = False
    _new_tasks: NewTasks | None = None
    _reported_events: set[str] = field(default_factory=set)
    _counts: str = ""

    def wait_until_rolled_out(self, timeout_seconds: float, earlier_events: Collection[str] = ()) -> None:
        """Returns when the rollout is done; raises RolloutFailed with the reason, RolloutReplaced if another command
        requested a newer one, or RolloutTimeout if it continues.

        `earlier_events`: IDs of ECS events that are not reported; those of earlier rollouts never are.
        """
        deadline = self.clock() + timeout_seconds
        self._skip_older_events(earlier_events)
        pause = _FIRST_POLL_SECONDS
        with self.progress.waiting("waiting for ECS") as update:
            while not self._is_done():
                update(f"waiting for ECS: {self._counts}")
                if self.clock() > deadline:
                    why = self._hint_of_events(self._describe())
                    raise RolloutTimeout(
                        f"Rollout of '{self.service}' did not finish within {timeout_seconds:g} s; "
                        "it continues in ECS.",
                        hint=f"{self._counts}; {f'{why}; ' if why else ''}wait longer with timeout_seconds=",
                    )
                self.sleep(pause)
                pause = min(pause * 1.3, _LAST_POLL_SECONDS)

    def _is_done(self) -> bool:
        service = self._describe()
        self._report(service)
        deployment = next((item for item in service["deployments"] if item["id"] == self.rollout.id), None)
        state = deployment.get("rolloutState") if deployment else None
        if deployment and state == "FAILED":
            raise self._failure(service, deployment.get("rolloutStateReason", ""))
        if deployment is None or deployment["status"] != "PRIMARY":
            raise self._ended_early(service)
        if state != "COMPLETED" or len(service["deployments"]) > 1:
            return self._is_answered(service, deployment)
        if not self._has_healthy_targets(service):
            return False
        if self._was_in_progress:
            self._report_answering(int(service["desiredCount"]), int(service["desiredCount"]))
        return True

    def _is_answered(self, service: Mapping[str, Any], deployment: Mapping[str, Any]) -> bool:
        """Reports new tasks that answer, until all do; returns whether the caller waits for no more than that."""
        self._was_in_progress = True  # a change of the count alone starts no rollout
        groups = [item["targetGroupArn"] for item in service.get("loadBalancers", [])]
        running, desired = deployment.get("runningCount", 0), int(deployment.get("desiredCount", 0))
        if self.on_answer is None or not groups or not running or self._answering >= desired:
            return False
        self._new_tasks = self._new_tasks or NewTasks(self.session, self.cluster, self.service, self.rollout.id)
        return self._report_answering(self._new_tasks.healthy_count(groups[0]), desired)

    def _report_answering(self, count: int, desired: int) -> bool:
        if self.on_answer is None or count <= self._answering:
            return False
        self._answering = count
        return self.on_answer(count, desired)

    def _skip_older_events(self, earlier_events: Collection[str]) -> None:
        service = self._describe()
        older = {event["id"] for event in service.get("events", []) if event["createdAt"] < self.rollout.began}
        self._reported_events |= older.union(earlier_events)

    def _describe(self) -> dict[str, Any]:
        service = describe_service(self.session, self.cluster, self.service)
        if service is None or service["status"] == "INACTIVE":
            raise RolloutReplaced(f"Another command deleted '{self.service}' during its rollout.")
        return service

    def _has_healthy_targets(self, service: Mapping[str, Any]) -> bool:
        return self._healthy_targets(service) >= int(service["desiredCount"])

    def _healthy_targets(self, service: Mapping[str, Any]) -> int:
        groups = [item["targetGroupArn"] for item in service.get("loadBalancers", [])]
        return (
            len(TargetGroupType(self.session).healthy_addresses(groups[0])) if groups else int(service["runningCount"])
        )

    def _report(self, service: Mapping[str, Any]) -> None:
        for event in reversed(service.get("events", [])):
            if event["id"] not in self._reported_events:
                self._reported_events.add(event["id"])
                self.progress.note(f"ECS: {shorten_arns(event['message'])}")
        primary = primary_deployment(service)
        running, desired = primary.get("runningCount", 0), primary.get("desiredCount", 0)
        counts = f"{running} of {desired} new tasks running" if desired else f"{running} tasks running, 0 desired"
        old = sum(item.get("runningCount", 0) for item in service["deployments"]) - running
        counts += f", {old} old {'task' if old == 1 else 'tasks'} left" if old else ""
        if counts != self._counts:
            self._counts = counts
            self.progress.note(counts)

    def _ended_early(self, service: Mapping[str, Any]) -> FargateError:
        """ECS went back to an older rollout, or another command requested a newer one."""
        own = next((event["message"] for event in service.get("events", ()) if self._is_failure(event)), None)
        if own or primary_deployment(service)["createdAt"] <= self.rollout.began:
            return self._failure(service, own or "ECS rolled back to the previous revision")
        return self._replaced(service)

    def _is_failure(self, event: Mapping[str, Any]) -> bool:
        return self.rollout.id in event["message"] and "failed" in event["message"]

    def _replaced(self, service: Mapping[str, Any]) -> RolloutReplaced:
        number = service["taskDefinition"].rpartition(":")[2]
        return RolloutReplaced(
            f"Another command changed '{self.service}' during this rollout; revision {number} replaces this one.",
            hint="to make this change anyway, run the command again; to see the other revision: mlflow-fargate history",
        )

    def _failure(self, service: Mapping[str, Any], reason: str) -> RolloutFailed:
        lines = [f"The rollout of '{self.service}' failed: {shorten_arns(reason)}"]
        # The last one is enough to explain it.
        tasks = read_stopped_tasks(self.session, self.cluster, self.service, count=1, deployment_id=self.rollout.id)
        for task in tasks:
            lines.append(f"  {task.summary}")
            lines += [f"    | {line}" for line in task.explaining_lines(_SHOWN_LINES)]
        lines += [f"  {alarm}" for alarm in self._triggered_alarms()]
        # Not the tasks of the failed rollout, nor of one that another command requested since.
        running = sum(
            int(item.get("runningCount", 0))
            for item in service.get("deployments", ())
            if item["id"] != self.rollout.id and item["createdAt"] <= self.rollout.began
        )
        lines.append(
            f"  {running} task(s) of the previous version are still serving."
            if running
            else "  Nothing is serving now."
        )
        return RolloutFailed("\n".join(lines), hint=(tasks[0].hint if tasks else None) or self._hint_of_events(service))

    def _triggered_alarms(self) -> list[Alarm]:
        """The alarms for which ECS ended the rollout; none if they cannot be read: ECS's words tell most of it."""
        try:
            brief = service_deployments.newest(self.session, self.cluster, self.service)
            full = service_deployments.describe(self.session, brief["serviceDeploymentArn"]) if brief else {}
            return read_alarms(self.session, (full.get("alarms") or {}).get("triggeredAlarmNames") or ())
        except AwsError:
            return []

    def _hint_of_events(self, service: Mapping[str, Any]) -> str | None:
        """What to do about the newest event of this rollout that tells; tasks that find no place never stop."""
        events = [event for event in service.get("events", ()) if event["createdAt"] >= self.rollout.began]
        return next((hint for event in events if (hint := hint_for_event(event["message"]))), None)


def last_failed_task_definition(session: AwsSession, brief: Mapping[str, Any] | None) -> str | None:
    """Returns the task definition of the newest rollout, if that failed; None if not, or without the permission."""
    if brief is None or brief["status"] not in service_deployments.GIVEN_UP:
        return None
    try:
        return service_deployments.task_definition_of(session, brief["targetServiceRevisionArn"])
    except AwsError as error:
        if error.code.startswith("AccessDenied"):
            return None
        raise
