"""From a spec to tasks that answer, for deployments and the webhook service; and their deletion.

    plan → apply → wait for the rollout → wait for the URL

Every step can be repeated, so running the same command again finishes what a killed client began.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from mlflow_fargate import scoring
from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.config.alarm_options import NOTICING_MINUTES
from mlflow_fargate.deployment import DeploymentStatus, RequestedRollout
from mlflow_fargate.deployments.costs import Estimate, estimate_cost, read_prices
from mlflow_fargate.deployments.rules import follow_note, new_shares
from mlflow_fargate.errors import DeploymentNotFound, RolloutReplaced
from mlflow_fargate.plan import Plan, Properties, Resource, make_deletion, make_plan
from mlflow_fargate.progress import Progress, noting_interruption
from mlflow_fargate.resources import (
    ENDPOINT_TAG,
    MANAGED_BY,
    DeploymentSpec,
    Network,
    WebhookSpec,
    deployment_resources,
    endpoint_resources,
    webhook_resources,
)
from mlflow_fargate.resources.alarms import alarm_names
from mlflow_fargate.resources.properties import TrafficProperties

Spec = DeploymentSpec | WebhookSpec
# Options that each add a type of resource: a deletion looks for all types, whatever the options were.
EVERY_KIND: Mapping[str, Any] = {
    "secrets": {"ANY": "arn:aws:secretsmanager:any"},
    "host": "any",
    "inference_log": "s3://any-bucket/any",
    "max_error_rate": 1,
    "max_latency_p99_ms": 1,
}
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

    def roll_out(
        self, spec: Spec, around: AbstractContextManager[None] = _NOTHING, before: DeploymentStatus | None = None
    ) -> Plan | None:
        """Applies `spec` and waits, unless wait=false. Returns the plan that was applied; None after a dry run.

        `around` is entered before the first write and sees every error from then on. `before`: what `spec` is based on.
        Raises DeploymentNotFound or RolloutReplaced, before the first write, if that was deleted or changed since.
        """
        self.progress.step("Planning")
        plan, estimate = self.preview(spec)
        if before and not plan.is_empty:
            self._check_unchanged(before)
        self.progress.note(f"{plan}\n{estimate}")
        if spec.config.dry_run:
            self.progress.step("Dry run: nothing was changed")
            return None
        first, traffic = plan.split("traffic")
        undo, follow = self._commands(spec)
        earlier = self.endpoint.event_ids(spec.name)
        with around:
            with noting_interruption(
                self.progress,
                "interrupted: the plan is partly applied. Run the same command to finish, or undo with:",
                undo,
            ):
                requested = self.account.apply(first, spec.endpoint.network, self.progress)
            self._note_strategy(spec, follow)
            if spec.config.wait and not (first.is_empty and self._is_complete(spec)):
                self._wait(spec, follow, earlier, requested)
        if not traffic.is_empty:  # tasks are healthy now
            self.account.apply(traffic, spec.endpoint.network, self.progress)
        return plan

    def divide(self, name: str, shares: Mapping[str, int]) -> None:
        """Divides the requests to `name` among it and its variants: deployment → percent, see `new_shares`."""
        wanted, nowhere = (self._traffic(name, shares),), Network("none", ())
        plan = make_plan(wanted, self.account.observe(wanted, nowhere))
        self.progress.note(str(plan))
        self.account.apply(plan, nowhere, self.progress)

    def _traffic(self, name: str, shares: Mapping[str, int]) -> Resource[TrafficProperties]:
        return Resource("traffic", name, TrafficProperties(shares), {**MANAGED_BY, ENDPOINT_TAG: self.endpoint.name})

    def preview(self, spec: Spec) -> tuple[Plan, Estimate]:
        """Returns the plan for `spec` and what it costs; reads only."""
        plan = self.plan(spec)
        return plan, estimate_cost(plan, self.account.region, read_prices())

    def plan(self, spec: Spec) -> Plan:
        """Returns the plan for `spec`; reads only."""
        wanted = [*endpoint_resources(spec.endpoint), *_resources(spec)]
        name, percent = spec.public_name, spec.config.traffic
        with self.account.session.observation():
            if percent is not None:
                wanted.append(self._traffic(name, new_shares(name, self.endpoint.shares(name), {spec.name: percent})))
            plan = make_plan(wanted, self.account.observe(wanted, spec.endpoint.network))
        notes = [*spec.endpoint.network.notes, follow_note(plan), _log_note(spec), *self._alarm_notes(spec)]
        if isinstance(spec, DeploymentSpec) and spec.provenance.runtime:
            notes.append(f"runtime {spec.provenance.runtime}")
        return replace(plan, notes=(*filter(None, notes), *plan.notes))

    def _alarm_notes(self, spec: Spec) -> Iterator[str]:
        """Yields warnings: alarms that cannot end the next rollout."""
        names, config = alarm_names(spec), spec.config
        for alarm in self.endpoint.ringing_alarms(names):
            yield f"warning: {alarm}; ECS ignores it in a rollout that begins now"
        if names and config.shifts_traffic and config.bake_time_minutes < NOTICING_MINUTES:
            yield (
                f"warning: bake_time_minutes={config.bake_time_minutes} is too short for alarms, which need about "
                f"{NOTICING_MINUTES} minutes to notice"
            )

    def delete(self, spec: Spec, retain: Collection[str] = frozenset()) -> None:
        """Deletes all resources that a spec with any options can have on this endpoint; see `EVERY_KIND`."""
        network = spec.endpoint.network
        found = self.account.find_deployment(endpoint_resources(spec.endpoint), _resources(spec), network)
        with noting_interruption(self.progress, "interrupted: partly deleted. Run the same command to delete the rest"):
            self.endpoint.mark_retained(spec.name, retain)
            plan = make_deletion([item for item in found if item[0] != "log group" or "logs" not in retain])
            if plan.is_empty:
                self.progress.step(f"There is no '{spec.name}' on endpoint '{self.endpoint.name}' to delete")
            self.progress.note(str(plan))
            self.account.apply(plan, network, self.progress, (self.endpoint.cluster, spec.name))
            if "images" not in retain:
                repository = self.endpoint.repository
                repository.delete_images(repository.image_tags(spec.name))

    def test_of(self, name: str) -> Callable[[Mapping[str, str]], str]:
        """Returns a function that sends a deployment's new tasks a test request; see scoring.test_service."""

        def test_green(headers: Mapping[str, str]) -> str:
            status = self.endpoint.status(name)
            if status is None:
                raise DeploymentNotFound(f"There is no deployment '{name}' on endpoint '{self.endpoint.name}'.")
            key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
            version = status.provenance.version
            return scoring.test_service(status.load_balancer_url, headers, api_key=key, version=version)

        return test_green

    def note_answering(self, version: str | None, *, is_enough: bool = False) -> Callable[[int, int], bool]:
        """Returns what reports how many tasks of a new version answer; `is_enough`: ends the wait once all do."""

        def on_answer(count: int, desired: int) -> bool:
            of_all = f" ({count} of {desired} new tasks)" if desired > 1 else ""
            self.progress.step(f"{f'version {version}' if version else 'the new version'} answers{of_all}")
            return is_enough and count >= desired

        return on_answer

    def _commands(self, spec: Spec) -> tuple[str, str]:
        """The command that deletes it, and the command that follows its rollout."""
        if isinstance(spec, WebhookSpec):
            where = f"-t '{self.uri}'"
            return f"mlflow-fargate webhook undeploy {where}", f"mlflow-fargate webhook status {where}"
        where = f"-t '{self.uri}' --name {spec.name}"
        return f"mlflow deployments delete {where}", f"mlflow-fargate status -f {where}"

    def _note_strategy(self, spec: Spec, follow: str) -> None:
        """Reports that the strategy was refused, or that ECS waits for a test that this command does not run."""
        status = self.endpoint.status(spec.name) if spec.config.shifts_traffic else None
        if status and status.strategy_refused:
            self.progress.note(status.strategy_refused)
        elif status and spec.config.test_green and not spec.config.wait and status.state == "IN_PROGRESS":
            self.progress.note(
                f"ECS waits up to {spec.config.test_timeout_minutes} minutes for a test of the new tasks, then rolls "
                f"back. Run the test with: {follow}"
            )

    def _check_unchanged(self, before: DeploymentStatus) -> None:
        """Raises DeploymentNotFound or RolloutReplaced if another command deleted or changed what it was."""
        self.account.session.end_observation()
        running = self.endpoint.running_revision(before.name)
        if running is None:
            raise DeploymentNotFound(
                f"Another command deleted '{before.name}' after this one began.",
                hint="nothing was changed; to create it again: mlflow deployments create",
            )
        if running != before.task_definition:
            raise RolloutReplaced(
                f"'{before.name}' changed after this command began (by another command, or a rollback by ECS).",
                hint="nothing was changed; to make this change anyway, run the command again",
            )

    def _is_complete(self, spec: Spec) -> bool:
        """Whether the newest rollout has completed, all its tasks run, and the URL answers at once."""
        status = self.endpoint.status(spec.name) if isinstance(spec, DeploymentSpec) else None
        if status is None or status.state != "COMPLETED" or status.running_count != status.desired_count:
            return False
        return status.desired_count == 0 or scoring.is_ready(status.load_balancer_url, status.headers)

    def _wait(
        self, spec: Spec, follow: str, earlier_events: Collection[str], requested: RequestedRollout | None
    ) -> None:
        """Waits until ECS reports that the rollout is done and, if there are tasks, the URL answers."""
        self.account.session.end_observation()
        self.progress.step("Waiting for the rollout")
        began, seconds = self.clock(), spec.config.rollout_seconds
        version = spec.provenance.version if isinstance(spec, DeploymentSpec) else None
        on_answer = self.note_answering(version, is_enough=not spec.config.wait_for_drain)
        with noting_interruption(self.progress, "interrupted: the rollout continues in ECS. Follow it with:", follow):
            self.endpoint.wait_until_rolled_out(
                spec.name, seconds, self.progress, self.test_of(spec.name), earlier_events, requested, on_answer
            )
        url, headers = self._address(spec)
        if url:
            left = max(seconds - (self.clock() - began), 30.0)
            with self.progress.waiting(f"waiting for {url}"):
                scoring.wait_until_ready(url, headers, timeout_seconds=left, clock=self.clock, sleep=self.sleep)

    def _address(self, spec: Spec) -> tuple[str | None, Mapping[str, str]]:
        """The URL by the load balancer's name, and headers: the DNS record of a certificate's name may come later."""
        if isinstance(spec, WebhookSpec):
            webhook = self.endpoint.webhook_status()
            return (webhook.url if webhook else None), {}
        status = self.endpoint.status(spec.name)
        return (status.load_balancer_url, status.headers) if status and status.desired_count else (None, {})


def _resources(spec: Spec) -> tuple[Resource[Properties], ...]:
    return webhook_resources(spec) if isinstance(spec, WebhookSpec) else deployment_resources(spec)


def _log_note(spec: Spec) -> str | None:
    """What is recorded, for readers of a plan."""
    config = spec.config
    if config.inference_log is None:
        return None
    share = f"{config.inference_log_sampling_fraction:.4%}".rstrip("0%").rstrip(".")
    hidden = f", without or with hashed {', '.join(config.hidden_columns)}" if config.hidden_columns else ""
    return f"inference log: {share}% of requests and answers are recorded in {config.inference_log}{hidden}"
