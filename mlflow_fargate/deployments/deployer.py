"""The story: from a model URI to a URL that answers; and its end.

    resolve the model → publish its image (desired.py) → plan → apply → watch the rollout → answer (roll_out.py)

Nothing is kept here between calls: what is deployed is read from AWS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow_fargate import scoring
from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.config import DeploymentConfig, NamedOptions, parse_config
from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.deployments.costs import Estimate
from mlflow_fargate.deployments.desired import Specs
from mlflow_fargate.deployments.roll_out import EVERY_KIND, Rollouts
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
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher import Publisher
from mlflow_fargate.resolved_model import Provenance, without_credentials
from mlflow_fargate.resources import DeploymentSpec, endpoint_resources
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

    @property
    def rollouts(self) -> Rollouts:
        return Rollouts(self.target.uri, self.account, self.endpoint, self.progress, self.clock, self.sleep)

    def create(self, name: str, model_uri: str, flavor: str | None, options: NamedOptions) -> DeploymentStatus | None:
        """The new deployment, answering (or accepted, with wait=false); None after a dry run.

        DeploymentExists when there is one already that was rolled out once, whatever its newest rollout is doing. One
        whose first rollout was cut short is finished instead: its options hold unless they are named again.
        """
        options.over()  # a typo is told before AWS is asked anything
        begun = self.endpoint.status(check_name(name))
        if begun and not self._may_finish(begun, model_uri):
            raise self._exists(begun)
        specs = self._specs
        spec = (
            specs.finished(begun, model_uri, flavor, options) if begun else specs.new(name, model_uri, flavor, options)
        )
        # An image takes minutes: meanwhile another deployer may have created it, or the first rollout have completed.
        now = self.endpoint.status(name)
        if now and not self._may_finish(now, model_uri) and not self.rollouts.plan(spec).is_empty:
            raise self._exists(now)
        return self.roll_out(spec)

    def _may_finish(self, begun: DeploymentStatus, model_uri: str) -> bool:
        is_the_same = begun.provenance.requested_uri == without_credentials(model_uri)
        return is_the_same and not self.endpoint.was_rolled_out(begun.name)

    def _exists(self, existing: DeploymentStatus) -> DeploymentExists:
        return DeploymentExists(
            f"There is already a deployment '{existing.name}' on endpoint '{existing.endpoint}' ({existing.url}).",
            hint=f"change it with: mlflow deployments update -t {self.target.uri} --name {existing.name} …",
        )

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
            return self.rollouts.preview(self._specs.changed(before, model_uri, flavor, options))
        if model_uri is None:
            raise InvalidOption(
                f"There is no deployment '{name}' yet, so a model has to be named.", hint="-m models:/MODEL/Production"
            )
        return self.rollouts.preview(self._specs.new(name, model_uri, flavor, options))

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
        endpoint, config = self.endpoint.standing_spec(), parse_config({**EVERY_KIND, "max_count": 1})
        spec = DeploymentSpec(name, endpoint, config, "none", Provenance("", "", "", ""), "pinned")
        self.rollouts.delete(spec, retain)
        if before is not None:
            self._version_tags(name).tell(before.provenance, "deleted")

    def predict(self, name: str, inputs: Any, timeout_seconds: float) -> Any:
        """The model's answer, as parsed JSON; the API key is fetched where one is needed."""
        status = self.get(name)
        key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
        is_custom_service = status.settings.custom_service is not None
        return scoring.score(
            status.url, inputs, api_key=key, timeout_seconds=timeout_seconds, is_custom_service=is_custom_service
        )

    def create_endpoint(self, name: str, config: DeploymentConfig) -> dict[str, str]:
        """The endpoint `name`, made if absent."""
        endpoint = self.account.endpoint(check_endpoint_name(name))
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

    def roll_out(self, spec: DeploymentSpec) -> DeploymentStatus | None:
        """The deployment as `spec` wants it, answering (or accepted, with wait=false); None after a dry run."""
        before = self.endpoint.status(spec.name)
        tags = self._version_tags(spec.name)
        plan = self.rollouts.roll_out(spec, tags.telling_failure(spec.provenance))
        if plan is None:
            return None
        status = self.get(spec.name)
        if not plan.is_empty:
            tags.tell_deployed(status, before)
        self.rollouts.tell_done(spec.name, status.url, waited=spec.config.wait)
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


def make_deployer(target: Target, account: Account, cache: Path, progress: Progress) -> Deployer:
    """A deployer for a target and the account behind it; `cache` is a folder of this machine."""
    publisher = Publisher(target, account, cache, progress)
    return Deployer(target, account, publisher, progress, write_tags=tag_model_version)
