"""ECS and ELB: how many tasks of one rollout are healthy targets. A target group shows the old ones among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mlflow_fargate.aws.resource_types.target_group import TargetGroupType
from mlflow_fargate.aws.session import AwsSession


@dataclass
class NewTasks:
    """The tasks that one rollout started, by their addresses; reads tasks only when an unknown target is healthy."""

    session: AwsSession
    cluster: str
    service: str
    rollout_id: str
    _new: set[str] = field(default_factory=set)
    _old: set[str] = field(default_factory=set)

    def healthy_count(self, target_group_arn: str) -> int:
        """Returns how many of these tasks are healthy targets of the group."""
        healthy = TargetGroupType(self.session).healthy_addresses(target_group_arn)
        if set(healthy) - self._new - self._old:
            for address, is_new in self._read_tasks():
                (self._new if is_new else self._old).add(address)
        return len(self._new.intersection(healthy))

    def _read_tasks(self) -> Iterator[tuple[str, bool]]:
        arns = list(self.session.pages("ecs", "list_tasks", "taskArns", cluster=self.cluster, serviceName=self.service))
        for start in range(0, len(arns), 100):
            answer = self.session.call("ecs", "describe_tasks", cluster=self.cluster, tasks=arns[start : start + 100])
            for task in answer["tasks"]:
                for container in task.get("containers", ()):
                    for interface in container.get("networkInterfaces", ()):
                        yield interface["privateIpv4Address"], task.get("startedBy") == self.rollout_id
