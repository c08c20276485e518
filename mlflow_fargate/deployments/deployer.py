"""Creates, updates, deletes and reads deployments and endpoints.

    resolve the model → publish its image (desired.py) → plan → apply → wait for the rollout (roll_out.py)

No state is kept between calls: what is deployed is read from AWS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlflow_fargate import scoring
from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.config import DeploymentConfig, NamedOptions, parse_config
from mlflow_fargate.deployment import PLAIN_HTTP, DeploymentStatus
from mlflow_fargate.deployments.callees import Callee, Callees
from mlflow_fargate.deployments.costs import Estimate
from mlflow_fargate.deployments.desired import Specs
from mlflow_fargate.deployments.roll_out import EVERY_KIND, Rollouts
from mlflow_fargate.deployments.rules import check_name
from mlflow_fargate.deployments.version_tags import VersionTags, WriteTags
from mlflow_fargate.errors import (
    DeploymentExists,
    DeploymentInUse,
    DeploymentNotFound,
    EndpointInUse,
    EndpointNotFound,
    InvalidOption,
    NotSupported,
    did_you_mean,
)
from mlflow_fargate.plan import Found, Plan, Properties, TypeName, make_deletion, make_plan
from mlflow_fargate.progress import Progress
from mlflow_fargate.resolved_model import Provenance, without_credentials
from mlflow_fargate.resources import DeploymentSpec, endpoint_resources
from mlflow_fargate.resources.balancer_properties import LoadBalancerProperties
from mlflow_fargate.target import Target, check_endpoint_name

if TYPE_CHECKING:
    from mlflow_fargate.publisher import Publisher

_NONE = NamedOptions()


@dataclass(frozen=True)
class Deployer:
    """Deployments on one endpoint of one account."""

    target: Target
    account: Account
    make_publisher: Callable[[], Publisher]
    progress: Progress
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    write_tags: WriteTags = lambda name, version, tags: None  # on a version in the model registry
    callees: Callees = field(default_factory=Callees)

    @property
    def endpoint(self) -> Endpoint:
        return self.account.endpoint(self.target.endpoint)

    @property
    def publisher(self) -> Publisher:
        return self.make_publisher()

    @property
    def rollouts(self) -> Rollouts:
        return Rollouts(self.target.uri, self.account, self.endpoint, self.progress, self.clock, self.sleep)

    def create(self, name: str, model_uri: str, flavor: str | None, options: NamedOptions) -> DeploymentStatus | None:
        """Creates a deployment and waits until it answers (unless wait=false); returns None after a dry run.

        Raises DeploymentExists if the name is taken by one with a completed rollout, whatever its newest rollout is
        doing. If its first rollout was interrupted, it is finished instead, with its options unless they are repeated.
        """
        options.over()  # reports a typo before the first call to AWS
        begun = self.endpoint.status(check_name(name))
        if begun and not self._may_finish(begun, model_uri, options):
            raise self._exists(begun)
        specs = self._specs
        spec = (
            specs.finished(begun, model_uri, flavor, options) if begun else specs.new(name, model_uri, flavor, options)
        )
        # Building an image takes minutes: another client may have created it, or its first rollout may have completed.
        with self.account.session.observation():
            now = self.endpoint.status(name)
            is_done = now and not self._may_finish(now, model_uri)
            if now and is_done and not self.rollouts.plan(spec).split("traffic")[0].is_empty:
                raise self._exists(now)
            return self.roll_out(spec)

    def _may_finish(self, begun: DeploymentStatus, model_uri: str, options: NamedOptions = _NONE) -> bool:
        """A variant gets its share of the requests last, so `options` with a share may finish that."""
        is_the_same = begun.provenance.requested_uri == without_credentials(model_uri)
        return is_the_same and (options.names("traffic") or not self.endpoint.was_rolled_out(begun.name))

    def _exists(self, existing: DeploymentStatus) -> DeploymentExists:
        return DeploymentExists(
            f"There is already a deployment '{existing.name}' on endpoint '{existing.endpoint}' ({existing.url}).",
            hint=f"change it with: mlflow deployments update -t {self.target.uri} --name {existing.name} …",
        )

    def update(
        self, name: str, model_uri: str | None, flavor: str | None, options: NamedOptions
    ) -> DeploymentStatus | None:
        """Changes a deployment's model or options and waits until it answers; returns None after a dry run.

        Options that are not named are kept. If nothing differs, nothing is written.
        """
        with self.account.session.observation():
            before = self.get(name)
            return self.roll_out(self._specs.changed(before, model_uri, flavor, options), before)

    def preview(
        self, name: str, model_uri: str | None, flavor: str | None, options: NamedOptions
    ) -> tuple[Plan, Estimate]:
        """Returns what create, or update if the deployment exists, would change, and its cost; reads only."""
        before = self.endpoint.status(check_name(name))
        options = options.also(dry_run=True)
        if before is not None:
            return self.rollouts.preview(self._specs.changed(before, model_uri, flavor, options))
        if model_uri is None:
            raise InvalidOption(
                f"There is no deployment '{name}' yet, so a model URI is required.", hint="-m models:/MODEL/Production"
            )
        return self.rollouts.preview(self._specs.new(name, model_uri, flavor, options))

    def get(self, name: str) -> DeploymentStatus:
        """Returns the deployment as AWS shows it; DeploymentNotFound if it does not exist."""
        found = self.endpoint.status(name)
        if found is None:
            raise DeploymentNotFound(
                f"There is no deployment '{name}' on endpoint '{self.target.endpoint}' in {self.account.region}.",
                hint=did_you_mean(name, self.endpoint.names())
                or f"check the region and endpoint, or list all: mlflow deployments list -t {self.target.uri}",
            )
        return found

    def list(self) -> Iterator[DeploymentStatus]:
        """Yields every deployment on the endpoint."""
        return self.endpoint.list_statuses()

    def delete(self, name: str, retain: Collection[str] = frozenset()) -> None:
        """Deletes the deployment and all its resources; does nothing if it does not exist.

        `retain`: keeps 'images' or 'logs', marked as retained, until a deletion that does not name them.
        """
        with self.account.session.observation():
            before = self.endpoint.status(check_name(name))
            if variants := self.endpoint.variants(name):
                raise DeploymentInUse(
                    f"'{name}' still has variants: {', '.join(variants)}. They share its URL and its API key.",
                    hint=f"delete them first: mlflow deployments delete -t {self.target.uri} --name {variants[0]}",
                )
            endpoint, config = self.endpoint.standing_spec(is_kept=True), parse_config({**EVERY_KIND, "max_count": 1})
            spec = DeploymentSpec(name, endpoint, config, "none", Provenance("", "", "", ""), "pinned")
            self.rollouts.delete(spec, retain)
        if before is not None:
            self._version_tags(name).tag(before.provenance, "deleted")

    def predict(self, name: str, inputs: Any, timeout_seconds: float) -> Any:
        """Returns the model's answer as parsed JSON; URL and API key are read once a minute (see callees.py)."""
        return self.callees.predict((self.target.endpoint, name), lambda: self._callee(name), inputs, timeout_seconds)

    def _callee(self, name: str) -> Callee:
        status = self.get(name)
        key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
        is_custom = status.settings.custom_service is not None
        return Callee(status.url, key, is_custom_service=is_custom, headers=status.headers)

    def predict_stream(self, name: str, inputs: Any, timeout_seconds: float) -> Iterator[Any]:
        """Yields the chunks of the model's answer; raises NotSupported for a custom service, whose routes differ."""
        status = self.get(name)
        if status.settings.custom_service is not None:
            raise NotSupported(
                f"'{name}' is a custom service, which has its own routes.",
                hint=f"send a request to one of them: {status.url}/docs.json lists them",
            )
        key = self.account.read_api_key(status.api_key_secret) if status.api_key_secret else None
        yield from scoring.score_stream(
            status.url, inputs, api_key=key, headers=status.headers, timeout_seconds=timeout_seconds
        )

    def create_endpoint(self, name: str, config: DeploymentConfig) -> dict[str, str]:
        """Creates the endpoint `name` if it does not exist."""
        endpoint = self.account.endpoint(check_endpoint_name(name))
        spec = endpoint.spec(config)
        wanted = endpoint_resources(spec)
        plan = make_plan(wanted, self.account.observe(wanted, spec.network))
        endpoint.repository.ensure()
        self.progress.note("\n".join([*spec.network.notes, str(plan)]))
        self.account.apply(plan, spec.network, self.progress)
        return self.get_endpoint(name)

    def get_endpoint(self, name: str) -> dict[str, str]:
        """Returns name, URL and cluster; EndpointNotFound if it does not exist."""
        endpoints = {endpoint["name"]: endpoint for endpoint in self.account.endpoints()}
        if name not in endpoints:
            raise EndpointNotFound(
                f"There is no endpoint '{name}' in {self.account.region}.", hint=did_you_mean(name, endpoints)
            )
        return endpoints[name]

    def delete_endpoint(self, name: str) -> None:
        """Deletes an endpoint; does nothing if it does not exist. Raises EndpointInUse while it has deployments."""
        endpoint = self.account.endpoint(name)
        deployed = [status.name for status in endpoint.list_statuses()]
        if deployed:
            raise EndpointInUse(
                f"Endpoint '{name}' still has deployments: {', '.join(deployed)}.",
                hint="delete these deployments first",
            )
        if endpoint.webhook_status():
            raise EndpointInUse(
                f"The webhook service is still on endpoint '{name}'.",
                hint="delete it first: mlflow-fargate webhook undeploy",
            )
        if kept := endpoint.deployments_with_retained_images():
            raise EndpointInUse(
                f"The repository of endpoint '{name}' contains retained images of {', '.join(kept)}.",
                hint=f"delete these first: mlflow deployments delete -t {self.target.uri} --name {kept[0]}",
            )
        spec = endpoint.standing_spec()
        found = self.account.find_endpoint(endpoint_resources(spec), spec.network)
        _check_unprotected(found)
        plan = make_deletion(found)
        self.progress.note(str(plan))
        self.account.apply(plan, spec.network, self.progress)
        endpoint.repository.delete()

    def roll_out(self, spec: DeploymentSpec, based_on: DeploymentStatus | None = None) -> DeploymentStatus | None:
        """Applies `spec` and waits until it answers (unless wait=false); returns None after a dry run.

        Raises DeploymentNotFound or RolloutReplaced if what it is `based_on` was deleted or changed since it was read.
        """
        with self.account.session.observation():
            before = self.endpoint.status(spec.name)
            tags = self._version_tags(spec.name)
            plan = self.rollouts.roll_out(spec, tags.tagging_failure(spec.provenance, before), based_on)
            if plan is None:
                return None
            status = self.get(spec.name)
        if not plan.is_empty:
            tags.tag_deployed(status, before)
        self._report_done(status, spec)
        return status

    def _report_done(self, status: DeploymentStatus, spec: DeploymentSpec) -> None:
        if not spec.config.wait:
            self.progress.step(f"{spec.name}: rollout started (not waiting for it)")
        elif not status.desired_count:
            self.progress.step(f"{spec.name} is scaled to 0 tasks, so callers of {status.url} get 503")
        else:
            self.progress.step(f"{spec.name} is at {status.url}")
        self._note_address(status, spec)

    def _note_address(self, status: DeploymentStatus, spec: DeploymentSpec) -> None:
        balancer = urlsplit(status.load_balancer_url)
        if status.exposes_key:
            self.progress.note(PLAIN_HTTP)
        if spec.config.domain:
            return  # its records were created, or shown
        if spec.config.host:
            self.progress.note(f"create a DNS record: {spec.config.host} → {balancer.hostname}")
        elif balancer.scheme == "https":
            self.progress.note(
                "the certificate does not cover the host name in this URL; set your own domain with host="
            )
        elif not spec.endpoint.is_https and not status.exposes_key:
            self.progress.note("plain HTTP: for HTTPS, create the endpoint with certificate_arn=")

    @property
    def _specs(self) -> Specs:
        network = self.target.environment.network
        return Specs(self.endpoint, self.make_publisher, self.progress, self.write_tags, network)

    def _version_tags(self, name: str) -> VersionTags:
        return VersionTags(self.target.endpoint, name, self.write_tags, self.progress)


def _check_unprotected(found: Sequence[tuple[TypeName, str, Found[Properties]]]) -> None:
    for _, name, what in found:
        if isinstance(what.properties, LoadBalancerProperties) and what.properties.is_protected:
            raise EndpointInUse(
                f"Load balancer '{name}' has deletion protection; nothing was deleted.",
                hint=f"turn it off: aws elbv2 modify-load-balancer-attributes --load-balancer-arn {what.identifier} "
                "--attributes Key=deletion_protection.enabled,Value=false",
            )


def make_deployer(target: Target, account: Account, cache: Path, progress: Progress) -> Deployer:
    """Returns a deployer for a target and its account; `cache` is a local folder."""

    # Imported when they are used: most commands need neither MLflow nor what builds images.
    def make_publisher() -> Publisher:
        from mlflow_fargate.publisher import Publisher  # noqa: PLC0415

        return Publisher(target, account, cache, progress)

    def write_tags(name: str, version: str, tags: Mapping[str, str]) -> None:
        from mlflow_fargate.model import tag_model_version  # noqa: PLC0415

        tag_model_version(name, version, tags)

    return Deployer(target, account, make_publisher, progress, write_tags=write_tags)
