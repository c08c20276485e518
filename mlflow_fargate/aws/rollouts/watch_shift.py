"""ECS: waits for a rollout that shifts traffic, and lets it continue once the new tasks have passed a test.

ECS starts the new tasks next to the old ones, routes the test rule to them and, if configured, pauses. Any client that
is waiting then tests the new tasks and calls ECS to continue or to roll back. If none does, ECS rolls back when the
hook times out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_fargate.aws import service_deployments
from mlflow_fargate.aws.ecs_service import primary_deployment
from mlflow_fargate.aws.resource_types.listener_rules import header_value
from mlflow_fargate.aws.resource_types.service import is_settled
from mlflow_fargate.aws.resource_types.target_group import TargetGroupType
from mlflow_fargate.aws.rollouts.watch import RolloutWatch
from mlflow_fargate.errors import AwsError, FargateError, RolloutFailed
from mlflow_fargate.resources import TEST_HEADER

# Sends the new tasks a test request with these headers and describes the response; raises if they failed the test.
TestGreen = Callable[[Mapping[str, str]], str]


@dataclass
class ShiftWatch(RolloutWatch):
    """Waits for the newest service deployment; calls `test_green` while it is paused for a test."""

    test_green: TestGreen | None = None
    _stage: str = ""
    _refusal: str = ""
    _answered: set[str] = field(default_factory=set)

    def _is_done(self) -> bool:
        service = self._describe()
        self._report(service)
        brief = service_deployments.newest(self.session, self.cluster, self.service)
        if brief is None or brief["createdAt"] < self.rollout.began - service_deployments.INACCURACY:
            # The newest record can still be that of the previous rollout, or there is none: see rollout_state. A change
            # of the count alone starts no rollout, so what was requested can be one that is long done.
            is_primary = primary_deployment(service).get("id") == self.rollout.id
            return is_primary and is_settled(service) and self._has_healthy_targets(service)
        deployment = service_deployments.describe(self.session, brief["serviceDeploymentArn"])
        if not self._is_ours(deployment):
            raise self._replaced(service)
        self._report_stage(deployment)
        self._answer_hooks(service, deployment)
        status = deployment["status"]
        if status in ("ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED", "STOPPED"):
            raise self._refused(service, deployment)
        count = service["desiredCount"]
        if service_deployments.has_shifted(deployment) and self._report_answering(count, count):
            return True
        return status == "SUCCESSFUL" and self._has_healthy_targets(service)

    def _is_ours(self, deployment: Mapping[str, Any]) -> bool:
        revision = deployment["targetServiceRevision"]["arn"]
        return service_deployments.task_definition_of(self.session, revision) == self.rollout.task_definition

    def _report_stage(self, deployment: Mapping[str, Any]) -> None:
        stage = service_deployments.stage_of(deployment)
        if stage and stage != self._stage:
            self._stage = stage
            self.progress.note(stage)

    def _answer_hooks(self, service: Mapping[str, Any], deployment: Mapping[str, Any]) -> None:
        for hook in deployment.get("lifecycleHookDetails", ()):
            is_waiting = hook.get("status") == "AWAITING_ACTION" and hook.get("targetType") == "PAUSE"
            if not is_waiting or hook["hookId"] in self._answered or self.test_green is None:
                continue
            self._answered.add(hook["hookId"])
            try:
                said = self._test(service, self.test_green)
            except FargateError as error:
                self._refusal = error.message
                self.progress.note(f"test of the new tasks failed, rolling back: {error.message}")
                self._act(deployment, hook, "ROLLBACK")
            else:
                self.progress.note(f"test of the new tasks passed: {said}")
                self._act(deployment, hook, "CONTINUE")

    def _test(self, service: Mapping[str, Any], test_green: TestGreen) -> str:
        if not service["desiredCount"]:
            return "no tasks to test (desired_count=0)"
        rule = service["loadBalancers"][0]["advancedConfiguration"]["testListenerRule"]
        found = self.session.call("elbv2", "describe_rules", RuleArns=[rule])["Rules"][0]
        return test_green({TEST_HEADER: header_value(found)})

    def _act(self, deployment: Mapping[str, Any], hook: Mapping[str, Any], action: str) -> None:
        try:
            self.session.call(
                "ecs",
                "continue_service_deployment",
                serviceDeploymentArn=deployment["serviceDeploymentArn"],
                hookId=hook["hookId"],
                action=action,
            )
        except AwsError as error:
            # Another client was faster, or the hook timed out: the next poll shows the outcome.
            if error.code not in ("InvalidParameterException", "ClientException"):
                raise
            self.progress.note(f"ECS is no longer waiting for the test result: {error.message}")

    def _healthy_targets(self, service: Mapping[str, Any]) -> int:
        """Counts both groups: versions alternate between them, and at the end only the new tasks are left."""
        balancer = service["loadBalancers"][0]
        groups = [balancer["targetGroupArn"], balancer["advancedConfiguration"]["alternateTargetGroupArn"]]
        return sum(len(TargetGroupType(self.session).healthy_addresses(arn)) for arn in groups)

    def _refused(self, service: Mapping[str, Any], deployment: Mapping[str, Any]) -> RolloutFailed:
        said = deployment.get("statusReason") or deployment["status"]
        if not self._refusal:
            return self._failure(service, said)
        went_back = deployment["status"] == "ROLLBACK_SUCCESSFUL"
        return RolloutFailed(
            f"The new tasks of '{self.service}' failed the test before any traffic was shifted: {self._refusal}\n"
            f"  {'The previous version is still serving.' if went_back else 'Nothing is serving now.'}",
            hint="mlflow-fargate logs shows the new tasks' output; test_green=false shifts traffic without a test",
        )
