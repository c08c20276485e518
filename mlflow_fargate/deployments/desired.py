"""The desired state: the spec of a deployment, from a model URI and options or from an existing one; with its image.

The only write to AWS is the push of the image to its repository.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.config import DeploymentConfig, NamedOptions
from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.deployments.flavors import check_flavor
from mlflow_fargate.deployments.rules import (
    check_change,
    check_log_columns,
    check_name,
    check_same_model,
    check_share,
    check_variant,
    follow_of,
    inherited,
    needs_another_image,
    new_shares,
    provenance_of,
    signature_differences,
)
from mlflow_fargate.deployments.version_tags import VersionTags, WriteTags
from mlflow_fargate.errors import DeploymentNotFound, FargateError, InvalidOption, did_you_mean
from mlflow_fargate.progress import Progress, noting_interruption
from mlflow_fargate.resolved_model import DEFAULT_FLAVOR, Provenance, ResolvedModel
from mlflow_fargate.resources import DeploymentSpec

if TYPE_CHECKING:
    from mlflow_fargate.publisher import Publisher

_NO_IMAGE_YET = "(to be built)"
LONG_SECONDS = 10  # more than finding an image takes


@dataclass(frozen=True)
class Specs:
    """Specs of deployments on one endpoint."""

    endpoint: Endpoint
    make_publisher: Callable[[], Publisher]
    progress: Progress
    write_tags: WriteTags
    network: Mapping[str, str]  # options of new deployments that set no other

    def new(self, name: str, model_uri: str, flavor: str | None, options: NamedOptions) -> DeploymentSpec:
        """Returns the spec of a new deployment; raises InvalidOption, ModelUnusable, and what publishing raises."""
        options = self._as_variant(name, options).below(self.network)
        config = options.over()
        model = self.make_publisher().resolve(model_uri, config.labels_file)
        check_flavor(model, flavor)
        follow = config.follow or follow_of(model_uri)
        return self._spec(name, None, config, model, provenance_of(model, flavor or DEFAULT_FLAVOR), follow, options)

    def changed(
        self, before: DeploymentStatus, model_uri: str | None, flavor: str | None, options: NamedOptions
    ) -> DeploymentSpec:
        """Returns the spec of an existing deployment with changes; InvalidOption if a change is not possible.

        The number of tasks is kept unless it is named: building an image takes minutes, and others may scale meanwhile.
        """
        spec = self._changed(before, model_uri, flavor, options)
        return replace(spec, keeps_count=not options.names("desired_count"))

    def _changed(
        self, before: DeploymentStatus, model_uri: str | None, flavor: str | None, options: NamedOptions
    ) -> DeploymentSpec:
        if flavor and not model_uri:
            raise InvalidOption("A flavor was passed without a model URI.", hint="pass both: -m models:/… -f …")
        if not before.image and not model_uri:
            raise InvalidOption(
                f"The task definition of '{before.name}' was deleted or damaged, and with it the record of its model "
                "and options.",
                hint="pass the model and all options that are not the default (-m … -C …), or delete the deployment",
            )
        config = options.over(before.settings)
        check_change(before, config, options)
        self._check_variants(before, config)
        if model_uri is not None:
            return self._with_model(before, config, model_uri, flavor, config.follow or follow_of(model_uri), options)
        follow, provenance = config.follow or before.follow, before.provenance
        if config.hidden_columns and any(map(options.names, ("inference_log_drop", "inference_log_hash"))):
            check_log_columns(config, self.make_publisher().resolve(provenance.resolved_uri, config.labels_file))
        if not needs_another_image(before.settings, config, options):
            self._check_log_bucket(config, options)
            endpoint = self.endpoint.spec(config, before, options.names)
            return DeploymentSpec(before.name, endpoint, config, before.image, provenance, follow)
        self.progress.note(f"these options change the image: rebuilding it from {provenance.resolved_uri}")
        model = self.make_publisher().resolve(provenance.resolved_uri, config.labels_file)
        check_same_model(provenance, model, has_other_labels=options.names("labels"))
        # The same version: its provenance keeps the URI that was requested.
        provenance = replace(provenance, fingerprint=model.fingerprint)
        return self._spec(before.name, before, config, model, provenance, follow, options)

    def finished(
        self, begun: DeploymentStatus, model_uri: str, flavor: str | None, options: NamedOptions
    ) -> DeploymentSpec:
        """Returns the spec of a deployment whose first rollout never completed: its options, with `options` over them.

        InvalidOption if ECS cannot make the change.
        """
        config = options.over(begun.settings)
        # With autoscaling, `create` accepts a count to start with; `update` does not.
        given = {key: value for key, value in options.given.items() if key != "desired_count"}
        check_change(begun, config, NamedOptions(given))
        options = replace(options, given={**begun.settings.named, **options.given})  # the first command's, to finish
        return self._with_model(begun, config, model_uri, flavor, config.follow or begun.follow, options)

    def _as_variant(self, name: str, options: NamedOptions) -> NamedOptions:
        """Returns the options of a new variant, with those that it shares; others as they are."""
        config = options.over()
        if config.variant_of is None:
            return options
        champion = self._champion(config.variant_of)
        options = options.below(inherited(champion))
        check_variant(name, options.over(), champion)
        self._check_share(name, config)
        return options

    def _check_share(self, name: str, config: DeploymentConfig) -> None:
        """Raises InvalidOption if a variant cannot have the share that it has or would get."""
        if config.variant_of and (config.traffic is not None or not config.fewest_tasks):
            shares = self.endpoint.shares(config.variant_of)
            if config.traffic is not None:
                shares = new_shares(config.variant_of, shares, {name: config.traffic})
            check_share(name, config, shares.get(name, 0))

    def _check_variants(self, before: DeploymentStatus, config: DeploymentConfig) -> None:
        """Raises InvalidOption for changes that would break a variant, or a deployment with variants."""
        self._check_share(before.name, config)
        changed = [name for name in ("auth", "strategy") if getattr(before.settings, name) != getattr(config, name)]
        if changed and (variants := self.endpoint.variants(before.name)):
            raise InvalidOption(
                f"{changed[0]} of '{before.name}' cannot change while it has variants: {', '.join(variants)}.",
                hint=f"delete them first: mlflow deployments delete --name {variants[0]}",
            )

    def _champion(self, name: str) -> DeploymentStatus:
        found = self.endpoint.status(check_name(name))
        if found is None:
            raise DeploymentNotFound(
                f"There is no deployment '{name}' for variant_of={name}.",
                hint=did_you_mean(name, self.endpoint.names()) or "create that deployment first",
            )
        return found

    def _note_signature(self, champion: DeploymentStatus, model: ResolvedModel) -> None:
        """Warns if callers of `champion` would get other answers, or errors, because a variant's signature differs."""
        try:
            theirs = self.make_publisher().resolve(champion.provenance.resolved_uri, None)
        except FargateError as error:
            self.progress.note(f"the signature of '{champion.name}' was not compared: {error.message.splitlines()[0]}")
            return
        if differences := signature_differences(theirs.metadata, model.metadata):
            self.progress.note(
                f"warning: the signature of {model.title} differs from that of '{champion.name}', whose callers it "
                f"will answer: {'; '.join(differences)}"
            )

    def _with_model(
        self,
        before: DeploymentStatus,
        config: DeploymentConfig,
        model_uri: str,
        flavor: str | None,
        follow: str,
        options: NamedOptions,
    ) -> DeploymentSpec:
        model = self.make_publisher().resolve(model_uri, config.labels_file)
        kept = before.provenance.flavor
        flavor = flavor or (kept if kept in model.flavors else None)
        check_flavor(model, flavor)
        provenance = provenance_of(model, flavor or DEFAULT_FLAVOR)
        return self._spec(before.name, before, config, model, provenance, follow, options)

    def _spec(
        self,
        name: str,
        before: DeploymentStatus | None,
        config: DeploymentConfig,
        model: ResolvedModel,
        provenance: Provenance,
        follow: str,
        options: NamedOptions,
    ) -> DeploymentSpec:
        """Returns the spec with the image of `model`, which is published unless this is a dry run."""
        check_log_columns(config, model)
        self._check_log_bucket(config, options)
        if config.variant_of:
            self._note_signature(self._champion(config.variant_of), model)
        self.endpoint.session.end_observation()  # resolving took seconds, building takes minutes
        endpoint = self.endpoint.spec(config, before, options.names)
        began = time.monotonic()
        image = self._image(name, before, model, config)
        if time.monotonic() - began > LONG_SECONDS:  # meanwhile, the endpoint may have got a certificate
            endpoint = self.endpoint.spec(config, before, options.names)
        provenance = replace(provenance, runtime=self._runtime(image, config))
        return DeploymentSpec(name, endpoint, config, image, provenance, follow)

    def _check_log_bucket(self, config: DeploymentConfig, options: NamedOptions) -> None:
        """Only when it is named, because updates of something else need no permission for the bucket."""
        if any(map(options.names, ("inference_log", "task_role_arn"))):
            self.endpoint.check_log_bucket(config)

    def _image(self, name: str, before: DeploymentStatus | None, model: ResolvedModel, config: DeploymentConfig) -> str:
        if not config.dry_run:
            with (
                VersionTags(self.endpoint.name, name, self.write_tags, self.progress).tagging_failure(
                    provenance_of(model, DEFAULT_FLAVOR), before
                ),
                noting_interruption(
                    self.progress,
                    "interrupted: nothing was deployed or changed. The next run reuses the layers that were uploaded",
                ),
            ):
                return self.make_publisher().publish(name, model, config)
        return self.make_publisher().find(name, model, config) or _NO_IMAGE_YET

    def _runtime(self, image: str, config: DeploymentConfig) -> str | None:
        if config.runtime == "native":
            return None
        if image == _NO_IMAGE_YET:
            return f"{config.runtime}: decided when the image is built"
        return self.make_publisher().runtime_of(image)
