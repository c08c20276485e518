"""The story: from a model URI to a URL that answers; and its end.

    resolve the model → publish its image (publisher/) → plan → apply → watch the rollout → answer

Nothing is kept here between calls: what is deployed is read from AWS. Every step can be done twice, so a client that
was killed is finished by running the same command again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_fargate import scoring
from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.config import DeploymentConfig, NamedOptions, parse_config
from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.deployments.costs import Estimate, estimate_cost, read_prices
from mlflow_fargate.deployments.desired import Specs
from mlflow_fargate.deployments.rules import check_name
from mlflow_fargate.deployments.version_tags import VersionTags, WriteTags
from mlflow_fargate.errors import (
    DeploymentExists,
    DeploymentNotFound,
    EndpointInUse,
    EndpointNotFound,
    InvalidOption,
)
from mlflow_fargate.model import tag_model_version
from mlflow_fargate.plan import Plan, make_deletion, make_plan
from mlflow_fargate.progress import Progress, telling_where_it_stands
from mlflow_fargate.publisher import Publisher
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import (
    DeploymentSpec,
    deployment_resources,
    endpoint_resources,
)
from mlflow_fargate.target import Target, check_endpoint_name


@dataclass(frozen=True)
class Deployer:
    """Deployments on one endpoint of one account."""

    target: Target
    account: Account
    publisher: Publisher
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    write_tags: WriteTags = lambda name, version, tags: None  # on a version in the model registry

    @property
    def endpoint(self) -> Endpoint:
        return self.account.endpoint(self.target.endpoint)

    def create(
        self, name: str, model_uri: str, flavor: str | None, config: DeploymentConfig
    ) -> DeploymentStatus | None:
        """The new deployment, answering (or accepted, with wait=false); None after a dry run.

        DeploymentExists when there is one already. One whose first rollout was cut short is finished instead.
        """
        existing = self.endpoint.status(check_name(name))
        if existing and (existing.state == "COMPLETED" or existing.provenance.requested_uri != model_uri):
            raise DeploymentExists(
                f"There is already a deployment '{name}' on endpoint '{self.target.endpoint}' ({existing.url}).",
                hint=f"change it with: mlflow deployments update -t {self.target.uri} --name {name} …",
            )
        return self.roll_out(self._specs.new(name, model_uri, flavor, config))

    def update(
        self, name: str, model_uri: str | None, flavor: str | None, options: NamedOptions
    ) -> DeploymentStatus | None:
        """The deployment with another model or other options, answering; None after a dry run.

        Options that are not named stay as they are; when nothing differs, nothing is written.
        """
        return self.roll_out(self._specs.changed(self.get(name), model_uri, flavor, options))

    def preview(
        self, name: str, model_uri: str | None, flavor: str | None, options: NamedOptions
    ) -> tuple[Plan, Estimate]:
        """What create, or where there is such a deployment update, would write, and what that costs; reads only."""
        before = self.endpoint.status(check_name(name))
        options = options.also(dry_run=True)
        if before is not None:
            return self._plan_and_cost(self._specs.changed(before, model_uri, flavor, options))
        if model_uri is None:
            raise InvalidOption(
                f"There is no deployment '{name}' yet, so a model has to be named.", hint="-m models:/MODEL/Production"
            )
        return self._plan_and_cost(self._specs.new(name, model_uri, flavor, options.over()))

    def get(self, name: str) -> DeploymentStatus:
        """The deployment as AWS shows it; DeploymentNotFound when there is none."""
        found = self.endpoint.status(name)
        if found is None:
            raise DeploymentNotFound(
                f"There is no deployment '{name}' on endpoint '{self.target.endpoint}' in {self.account.region}.",
                hint=f"another region? see what there is with: mlflow deployments list -t {self.target.uri}",
            )
        return found

    def list(self) -> Iterator[DeploymentStatus]:
        """Every deployment on the endpoint."""
        return self.endpoint.list_statuses()

    def delete(self, name: str, retain: Collection[str] = frozenset()) -> None:
        """Takes the deployment away with all that was made for it; when it is not there, nothing happens.

        `retain`: 'images' and 'logs' stay, marked as left on purpose, until a deletion that does not name them.
        """
        before = self.endpoint.status(check_name(name))
        endpoint = self.endpoint.standing_spec()
        # Every option that adds a kind of resource is switched on, so that each kind is looked for.
        config = parse_config({"secrets": {"ANY": "arn:aws:secretsmanager:any"}, "max_count": 1, "host": "any"})
        spec = DeploymentSpec(name, endpoint, config, "none", Provenance("", "", "", ""), "pinned")
        found = self.account.find_deployment(endpoint_resources(endpoint), deployment_resources(spec), endpoint.network)
        with telling_where_it_stands(self.progress, "deleted in part; the same command deletes the rest"):
            self.endpoint.mark_retained(name, retain)
            going = [item for item in found if item[0] != "log group" or "logs" not in retain]
            self.account.apply(make_deletion(going), endpoint.network, self.progress)
            if "images" not in retain:
                repository = self.endpoint.repository
                repository.delete_images(repository.image_tags(name))
        if before is not None:
            self._version_tags(name).tell(before.provenance, "deleted")

    def predict(self, name: str, inputs: Any, timeout_seconds: float) -> Any:
        """The model's answer, as parsed JSON; the API key is fetched where one is needed."""
        status = self.get(name)
        key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
        is_own_service = status.settings.own_service is not None
        return scoring.score(
            status.url, inputs, api_key=key, timeout_seconds=timeout_seconds, is_own_service=is_own_service
        )

    def create_endpoint(self, name: str, config: DeploymentConfig) -> dict[str, str]:
        """The endpoint `name`, made if absent."""
        check_endpoint_name(name)
        endpoint = self.account.endpoint(name)
        spec = endpoint.spec(config)
        wanted = endpoint_resources(spec)
        plan = make_plan(wanted, self.account.observe(wanted, spec.network))
        endpoint.repository.ensure()
        self.account.apply(plan, spec.network, self.progress)
        return self.get_endpoint(name)

    def get_endpoint(self, name: str) -> dict[str, str]:
        """Name, URL and cluster; EndpointNotFound when there is none."""
        found = next((endpoint for endpoint in self.account.endpoints() if endpoint["name"] == name), None)
        if found is None:
            raise EndpointNotFound(f"There is no endpoint '{name}' in {self.account.region}.")
        return found

    def delete_endpoint(self, name: str) -> None:
        """Takes an endpoint away; EndpointInUse while deployments live on it; when it is not there, nothing happens."""
        endpoint = self.account.endpoint(name)
        living = [status.name for status in endpoint.list_statuses()]
        if living:
            raise EndpointInUse(
                f"Endpoint '{name}' still serves {', '.join(living)}.", hint="delete these deployments first"
            )
        if endpoint.webhook_status():
            raise EndpointInUse(
                f"The webhook service still lives on endpoint '{name}'.",
                hint="take it away first: mlflow-fargate webhook undeploy",
            )
        if kept := endpoint.deployments_with_retained_images():
            raise EndpointInUse(
                f"The repository of endpoint '{name}' keeps images of {', '.join(kept)}, which were retained.",
                hint=f"delete these first: mlflow deployments delete -t {self.target.uri} --name {kept[0]}",
            )
        spec = endpoint.standing_spec()
        found = self.account.find_endpoint(endpoint_resources(spec), spec.network)
        self.account.apply(make_deletion(found), spec.network, self.progress)
        endpoint.repository.delete()

    def plan(self, spec: DeploymentSpec) -> Plan:
        """What would be written for `spec`; reads only."""
        wanted = (*endpoint_resources(spec.endpoint), *deployment_resources(spec))
        plan = make_plan(wanted, self.account.observe(wanted, spec.endpoint.network))
        runtime = spec.provenance.runtime
        return replace(plan, notes=(f"runtime {runtime}",)) if runtime else plan

    def _plan_and_cost(self, spec: DeploymentSpec) -> tuple[Plan, Estimate]:
        plan = self.plan(spec)
        return plan, estimate_cost(plan, self.account.region, read_prices())

    def roll_out(self, spec: DeploymentSpec) -> DeploymentStatus | None:
        """Makes AWS as `spec` wants it, and waits unless told not to; None after a dry run."""
        self.progress.step("plan")
        plan, estimate = self._plan_and_cost(spec)
        self.progress.note(f"{plan}\n{estimate}")
        if spec.config.dry_run:
            self.progress.step("dry run: nothing was changed")
            return None
        self.progress.step("apply")
        before = self.endpoint.status(spec.name)
        tags = self._version_tags(spec.name)
        with tags.telling_failure(spec.provenance):
            with telling_where_it_stands(
                self.progress,
                "stopped on the way: a part of the plan is done. The same command does the rest; this takes it away:",
                f"mlflow deployments delete -t '{self.target.uri}' --name {spec.name}",
            ):
                self.account.apply(plan, spec.endpoint.network, self.progress)
            self._tell_strategy(spec)
            if spec.config.wait:
                self._wait(spec)
            status = self.get(spec.name)
        if not plan.is_empty:
            tags.tell_deployed(status, before)
        self.progress.step(f"{spec.name} answers at {status.url}" if spec.config.wait else f"{spec.name} is on its way")
        self._tell_how_to_be_reached(status, spec)
        return status

    def _tell_how_to_be_reached(self, status: DeploymentStatus, spec: DeploymentSpec) -> None:
        balancer = urlsplit(status.load_balancer_url)
        if spec.config.host:
            self.progress.note(f"{spec.config.host} leads here once its DNS record names {balancer.hostname}")
        elif balancer.scheme == "https":
            self.progress.note("the certificate stands for a domain of yours, not for this name: give it with host=")
        elif not spec.endpoint.certificate_arn:
            self.progress.note("plain HTTP: name a certificate with certificate_arn= when the endpoint is made")

    @property
    def _specs(self) -> Specs:
        return Specs(self.endpoint, self.publisher, self.progress, self.write_tags)

    def _version_tags(self, name: str) -> VersionTags:
        return VersionTags(self.target.endpoint, name, self.write_tags, self.progress)

    def test_of(self, name: str) -> Callable[[Mapping[str, str]], str]:
        """Asks a deployment's new tasks what traffic shifted to them would; see scoring.test_service."""

        def test_green(headers: Mapping[str, str]) -> str:
            status = self.get(name)
            key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
            version = status.provenance.version
            return scoring.test_service(status.load_balancer_url, headers, api_key=key, version=version)

        return test_green

    def _tell_strategy(self, spec: DeploymentSpec) -> None:
        """What of the strategy a user should know: that it was refused, or that ECS waits for somebody to test."""
        if not spec.config.shifts_traffic:
            return
        status = self.get(spec.name)
        if status.strategy_refused:
            self.progress.note(status.strategy_refused)
        elif spec.config.test_green and not spec.config.wait and status.state == "IN_PROGRESS":
            self.progress.note(
                f"ECS waits {spec.config.test_timeout_minutes} minutes for a test of the new tasks, and goes back "
                f"without; it is done by: mlflow-fargate status -f -t '{self.target.uri}' --name {spec.name}"
            )

    def _wait(self, spec: DeploymentSpec) -> None:
        """Until ECS says the rollout is done, and the URL answers (with no tasks nothing would)."""
        self.progress.step("rollout")
        began = self.clock()
        seconds = spec.config.rollout_seconds
        with telling_where_it_stands(
            self.progress,
            "ECS goes on with the rollout; follow it with:",
            f"mlflow-fargate status -f -t '{self.target.uri}' --name {spec.name}",
        ):
            self.endpoint.wait_until_rolled_out(spec.name, seconds, self.progress, self.test_of(spec.name))
        status = self.get(spec.name)
        if status.desired_count == 0:
            return
        left = max(seconds - (self.clock() - began), 30.0)
        # By the load balancer's name: that of the certificate may get its DNS record later.
        scoring.wait_until_ready(status.load_balancer_url, timeout_seconds=left, clock=self.clock, sleep=self.sleep)


def make_deployer(target: Target, account: Account, cache: Path, progress: Progress) -> Deployer:
    """A deployer for a target and the account behind it; `cache` is a folder of this machine."""
    publisher = Publisher(target, account, cache, progress)
    return Deployer(target, account, publisher, progress, write_tags=tag_model_version)
