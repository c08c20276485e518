"""From a spec to tasks that answer, for a deployment and for the webhook service alike; and back to nothing.

    plan → apply → watch the rollout → answer

Every step can be done twice, so a client that was killed is finished by running the same command again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from mlflow_fargate import scoring
from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.deployments.costs import Estimate, estimate_cost, read_prices
from mlflow_fargate.errors import DeploymentNotFound
from mlflow_fargate.plan import Plan, Properties, Resource, make_deletion, make_plan
from mlflow_fargate.progress import Progress, telling_where_it_stands
from mlflow_fargate.resources import (
    DeploymentSpec,
    WebhookSpec,
    deployment_resources,
    endpoint_resources,
    webhook_resources,
)

Spec = DeploymentSpec | WebhookSpec
# Options that each add a kind of resource: a deletion looks for all kinds, whatever the options were.
EVERY_KIND: Mapping[str, Any] = {"secrets": {"ANY": "arn:aws:secretsmanager:any"}, "host": "any"}
_NOTHING = nullcontext()


@dataclass(frozen=True)
class Rollouts:
    """Rollouts on one endpoint."""

    uri: str  # of the target
    account: Account
    endpoint: Endpoint
    progress: Progress
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def roll_out(self, spec: Spec, around: AbstractContextManager[None] = _NOTHING) -> Plan | None:
        """Makes AWS as `spec` wants it, and waits unless told not to: the plan that was applied; None after a dry run.

        `around` is entered before the first write, and sees what goes wrong from there on.
        """
        self.progress.step("plan")
        plan, estimate = self.preview(spec)
        self.progress.note(f"{plan}\n{estimate}")
        if spec.config.dry_run:
            self.progress.step("dry run: nothing was changed")
            return None
        self.progress.step("apply")
        undo, follow = self._commands(spec)
        with around:
            with telling_where_it_stands(
                self.progress,
                "stopped on the way: a part of the plan is done. The same command does the rest; this takes it away:",
                undo,
            ):
                self.account.apply(plan, spec.endpoint.network, self.progress)
            self._tell_strategy(spec, follow)
            if spec.config.wait:
                self._wait(spec, follow)
        return plan

    def preview(self, spec: Spec) -> tuple[Plan, Estimate]:
        """What would be written for `spec`, and what that costs; reads only."""
        plan = self.plan(spec)
        return plan, estimate_cost(plan, self.account.region, read_prices())

    def plan(self, spec: Spec) -> Plan:
        """What would be written for `spec`; reads only."""
        wanted = (*endpoint_resources(spec.endpoint), *_resources(spec))
        plan = make_plan(wanted, self.account.observe(wanted, spec.endpoint.network))
        if isinstance(spec, DeploymentSpec) and spec.provenance.runtime:
            return replace(plan, notes=(f"runtime {spec.provenance.runtime}",))
        return plan

    def tell_done(self, title: str, url: str, *, waited: bool) -> None:
        """The last step of a rollout."""
        self.progress.step(f"{title} answers at {url}" if waited else f"{title} is on its way")

    def delete(self, spec: Spec, retain: Collection[str] = frozenset()) -> None:
        """Takes away all that a spec's options, on the endpoint as it stands, may have made; see `EVERY_KIND`."""
        network = spec.endpoint.network
        found = self.account.find_deployment(endpoint_resources(spec.endpoint), _resources(spec), network)
        with telling_where_it_stands(self.progress, "deleted in part; the same command deletes the rest"):
            self.endpoint.mark_retained(spec.name, retain)
            going = [item for item in found if item[0] != "log group" or "logs" not in retain]
            self.account.apply(make_deletion(going), network, self.progress)
            if "images" not in retain:
                repository = self.endpoint.repository
                repository.delete_images(repository.image_tags(spec.name))

    def test_of(self, name: str) -> Callable[[Mapping[str, str]], str]:
        """Asks a deployment's new tasks what traffic shifted to them would; see scoring.test_service."""

        def test_green(headers: Mapping[str, str]) -> str:
            status = self.endpoint.status(name)
            if status is None:
                raise DeploymentNotFound(f"There is no deployment '{name}' on endpoint '{self.endpoint.name}'.")
            key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
            version = status.provenance.version
            return scoring.test_service(status.load_balancer_url, headers, api_key=key, version=version)

        return test_green

    def _commands(self, spec: Spec) -> tuple[str, str]:
        """What takes it away, and what follows its rollout."""
        if isinstance(spec, WebhookSpec):
            where = f"-t '{self.uri}'"
            return f"mlflow-fargate webhook undeploy {where}", f"mlflow-fargate webhook status {where}"
        where = f"-t '{self.uri}' --name {spec.name}"
        return f"mlflow deployments delete {where}", f"mlflow-fargate status -f {where}"

    def _tell_strategy(self, spec: Spec, follow: str) -> None:
        """What of the strategy a user should know: that it was refused, or that ECS waits for somebody to test."""
        status = self.endpoint.status(spec.name) if spec.config.shifts_traffic else None
        if status and status.strategy_refused:
            self.progress.note(status.strategy_refused)
        elif status and spec.config.test_green and not spec.config.wait and status.state == "IN_PROGRESS":
            self.progress.note(
                f"ECS waits {spec.config.test_timeout_minutes} minutes for a test of the new tasks, and goes back "
                f"without; it is done by: {follow}"
            )

    def _wait(self, spec: Spec, follow: str) -> None:
        """Until ECS says the rollout is done, and the URL answers (with no tasks nothing would)."""
        self.progress.step("rollout")
        began, seconds = self.clock(), spec.config.rollout_seconds
        with telling_where_it_stands(self.progress, "ECS goes on with the rollout; follow it with:", follow):
            self.endpoint.wait_until_rolled_out(spec.name, seconds, self.progress, self.test_of(spec.name))
        if url := self._address(spec):
            left = max(seconds - (self.clock() - began), 30.0)
            scoring.wait_until_ready(url, timeout_seconds=left, clock=self.clock, sleep=self.sleep)

    def _address(self, spec: Spec) -> str | None:
        """Where tasks answer by the load balancer's name: that of a certificate may get its DNS record later."""
        if isinstance(spec, WebhookSpec):
            webhook = self.endpoint.webhook_status()
            return webhook.url if webhook else None
        status = self.endpoint.status(spec.name)
        return status.load_balancer_url if status and status.desired_count else None


def _resources(spec: Spec) -> tuple[Resource[Properties], ...]:
    return webhook_resources(spec) if isinstance(spec, WebhookSpec) else deployment_resources(spec)
