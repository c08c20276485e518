"""ECS: watching a deployment that shifts traffic, and saying whether it may, once its new tasks were tested.

ECS brings the new tasks up beside the old ones, leads the test rule to them and, where we asked for it, pauses there.
Whoever watches then has the new tasks tested, and tells ECS to continue or to go back; when nobody does, ECS goes
back by itself after the hook's time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_fargate.aws import service_deployments
from mlflow_fargate.aws.resource_types.listener_rules import read_test_value
from mlflow_fargate.aws.resource_types.target_group import TargetGroupType
from mlflow_fargate.aws.rollouts.watch import RolloutWatch
from mlflow_fargate.errors import AwsError, FargateError, RolloutFailed
from mlflow_fargate.resources import TEST_HEADER

# Asks the new tasks, with these headers; the answer in words. What it raises is why traffic must not be shifted.
TestGreen = Callable[[Mapping[str, str]], str]


@dataclass
class ShiftWatch(RolloutWatch):
    """Waits for the newest service deployment; `test_green` is called while it is paused for that."""

    test_green: TestGreen | None = None
    _told_stage: str = ""
    _refusal: str = ""
    _answered: set[str] = field(default_factory=set)

    def _is_done(self) -> bool:
        service = self._describe()
        self._tell(service)
        brief = service_deployments.newest(self.session, self.cluster, self.service)
        if brief is None:
            return False
        deployment = service_deployments.describe(self.session, brief["serviceDeploymentArn"])
        self._tell_stage(deployment)
        self._answer_hooks(service, deployment)
        status = deployment["status"]
        if status in ("ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED", "STOPPED"):
            raise self._refused(service, deployment)
        if status != "SUCCESSFUL" or not self._is_ours(service, deployment):
            return False
        return self._healthy_targets(service) >= int(service["desiredCount"])

    def _is_ours(self, service: Mapping[str, Any], deployment: Mapping[str, Any]) -> bool:
        """Right after an update the record of the rollout before may still be the newest."""
        revision = deployment["targetServiceRevision"]["arn"]
        deployed: str = service["taskDefinition"]
        return service_deployments.task_definition_of(self.session, revision) == deployed

    def _tell_stage(self, deployment: Mapping[str, Any]) -> None:
        stage = service_deployments.tell_shift(deployment)
        if stage and stage != self._told_stage:
            self._told_stage = stage
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
                self.progress.note(f"the new tasks failed the test, so ECS is told to go back: {error.message}")
                self._act(deployment, hook, "ROLLBACK")
            else:
                self.progress.note(f"the new tasks were tested: {said}")
                self._act(deployment, hook, "CONTINUE")

    def _test(self, service: Mapping[str, Any], test_green: TestGreen) -> str:
        if not service["desiredCount"]:
            return "there are none (desired_count=0)"
        rule = service["loadBalancers"][0]["advancedConfiguration"]["testListenerRule"]
        found = self.session.call("elbv2", "describe_rules", RuleArns=[rule])["Rules"][0]
        return test_green({TEST_HEADER: read_test_value(found)})

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
            # Another watcher was faster, or the hook's time was over: the next look tells what came of it.
            if error.code not in ("InvalidParameterException", "ClientException"):
                raise
            self.progress.note(f"ECS waits for no word any more: {error.message}")

    def _healthy_targets(self, service: Mapping[str, Any]) -> int:
        """In either group: versions take turns between them, and at the end only the new tasks are left."""
        balancer = service["loadBalancers"][0]
        groups = [balancer["targetGroupArn"], balancer["advancedConfiguration"]["alternateTargetGroupArn"]]
        return sum(TargetGroupType(self.session).healthy_count(arn) for arn in groups)

    def _refused(self, service: Mapping[str, Any], deployment: Mapping[str, Any]) -> RolloutFailed:
        said = deployment.get("statusReason") or deployment["status"]
        if not self._refusal:
            return self._failure(service, said)
        went_back = deployment["status"] == "ROLLBACK_SUCCESSFUL"
        return RolloutFailed(
            f"The new tasks of '{self.service}' failed the test before any traffic was shifted: {self._refusal}\n"
            f"  {'The version before still serves.' if went_back else 'Nothing serves now.'}",
            hint="test_green=false shifts without a test; mlflow-fargate logs shows what the new tasks wrote",
        )
