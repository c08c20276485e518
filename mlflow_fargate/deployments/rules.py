"""Rules for deployments: valid names, what they follow, what an update cannot change. Pure."""

from __future__ import annotations

from mlflow_fargate.config import OF_THE_IMAGE, DeploymentConfig, NamedOptions
from mlflow_fargate.deployment import DEPLOYMENT_NAME, NAME_HINT, STAGES, DeploymentStatus
from mlflow_fargate.errors import InvalidOption, ModelNotFound, did_you_mean
from mlflow_fargate.plan import Plan
from mlflow_fargate.resolved_model import Provenance, ResolvedModel
from mlflow_fargate.resources.properties import ServiceProperties

# The content of these files and URIs can change without a change of name.
_NAMES_OF_CONTENT = frozenset({"labels", "service", "models"})
_ENTRY_OPTIONS = ("load_balancer_arn", "listener_arn", "target_group_arn")


def follow_of(model_uri: str) -> str:
    """Returns what a deployment of this URI follows: a stage, an @alias, or nothing ('pinned')."""
    name, _, last = model_uri.removeprefix("models:/").rpartition("/")
    if not model_uri.startswith("models:/"):
        return "pinned"
    if not name:
        alias = last.rpartition("@")[2]
        return f"@{alias}" if "@" in last else "pinned"
    return next((stage for stage in STAGES if stage.lower() == last.lower()), "pinned")


def check_name(name: str) -> str:
    """Returns `name`; InvalidOption if it is not a valid deployment name."""
    if DEPLOYMENT_NAME.fullmatch(name):
        return name
    raise InvalidOption(f"'{name}' is not a valid deployment name.", hint=NAME_HINT)


def provenance_of(model: ResolvedModel, flavor: str) -> Provenance:
    """Returns where the model came from, as it is recorded on the task definition."""
    return Provenance(
        model.requested_uri,
        model.resolved_uri,
        model.fingerprint,
        flavor,
        name=model.name,
        version=model.version,
        run_id=model.run_id,
        registered_ms=model.registered_ms,
    )


def check_same_model(deployed: Provenance, model: ResolvedModel, *, has_other_labels: bool) -> None:
    """Raises ModelNotFound if the URI of the deployed model is that of another model by now.

    A version's number comes back if its model is deleted and registered again. The fingerprint covers the labels file.
    """
    is_same = model.fingerprint == deployed.fingerprint or has_other_labels
    for was, is_now in ((deployed.registered_ms, model.registered_ms), (deployed.run_id, model.run_id)):
        is_same = is_same and (was is None or was == is_now)
    if not is_same:
        raise ModelNotFound(
            f"{model.title} is not the model that was deployed: the version was registered again, or its files "
            "changed.",
            hint=f"nothing was changed; to deploy the model as it is now, pass its URI: -m {deployed.resolved_uri}",
        )


def check_change(before: DeploymentStatus, config: DeploymentConfig, options: NamedOptions) -> None:
    """Raises InvalidOption if ECS or the load balancer cannot make this change to an existing deployment.

    `config`: its settings with the `options` of the update applied.
    """
    moved = [name for name in _ENTRY_OPTIONS if getattr(config, name) != getattr(before.settings, name)]
    if moved:
        raise InvalidOption(
            f"An update cannot move '{before.name}' to another load balancer ({moved[0]}).",
            hint="delete the deployment and create it again, or create a second one",
        )
    if before.settings.shifts_traffic and not before.strategy_refused:
        _check_shift(before.name, before.settings, config)
    if config.is_scaled and "desired_count" in options.given:
        raise InvalidOption(
            f"Autoscaling controls the number of tasks of '{before.name}' ({config.min_count} to {config.max_count}).",
            hint="change min_count and max_count, or turn autoscaling off with max_count=",
        )


def follow_note(plan: Plan) -> str | None:
    """Returns a warning if the plan stops a deployment from following a stage or alias."""
    for change in plan.changes:
        wanted, found = change.wanted and change.wanted.properties, change.found and change.found.properties
        if isinstance(wanted, ServiceProperties) and isinstance(found, ServiceProperties):
            followed = found.follow or "pinned"
            if wanted.follow == "pinned" != followed:
                return (
                    f"warning: follow: {followed} → pinned. Promotions to {followed} will no longer be deployed; "
                    f"to keep following, add -C follow={followed}"
                )
    return None


def check_log_columns(config: DeploymentConfig, model: ResolvedModel) -> None:
    """Raises InvalidOption if a column to hide is not in the signature: what replaced it would be recorded."""
    known = model.input_names
    missing = sorted(set(config.hidden_columns).difference(known or ()))
    if missing and known is not None and config.custom_service is None:
        option = "inference_log_drop" if missing[0] in config.inference_log_drop else "inference_log_hash"
        raise InvalidOption(
            f"Option {option}: '{missing[0]}' is not an input of {model.title}.",
            hint=did_you_mean(missing[0], known) or f"its inputs are {', '.join(known) or 'without names'}",
        )


def needs_another_image(kept: DeploymentConfig, config: DeploymentConfig, options: NamedOptions) -> bool:
    """Returns whether an update without a model needs a new image: `options` change the settings `kept` to `config`."""
    is_shaped = any(getattr(kept, name) != getattr(config, name) for name in OF_THE_IMAGE)
    return is_shaped or not options.keys.isdisjoint(_NAMES_OF_CONTENT)


def _check_shift(name: str, kept: DeploymentConfig, config: DeploymentConfig) -> None:
    """Raises InvalidOption for changes that traffic shifting does not allow."""
    if not config.shifts_traffic:
        raise InvalidOption(
            f"An update cannot change '{name}' from strategy={kept.strategy} back to rolling: the deployment's tasks "
            "may be in the second target group, which rolling deployments do not use.",
            hint="delete the deployment and create it again, or use strategy=blue_green with bake_time_minutes=0",
        )
    if config.port != kept.port:
        raise InvalidOption(
            f"An update cannot change the port of '{name}': with strategy={config.strategy}, its two target groups "
            f"are kept.",
            hint="delete the deployment and create it again, or create a second one",
        )
