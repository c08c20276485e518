"""What a deployment may be called, what it follows, where it came from, what an update cannot change: pure rules."""

from __future__ import annotations

from mlflow_fargate.config import OF_THE_IMAGE, DeploymentConfig, NamedOptions
from mlflow_fargate.deployment import DEPLOYMENT_NAME, NAME_HINT, STAGES, DeploymentStatus
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resolved_model import Provenance, ResolvedModel

# What is in these files, or behind these URIs, may be another thing under the same name.
_NAMES_OF_CONTENT = frozenset({"labels", "service", "models"})
_DOORS = ("load_balancer_arn", "listener_arn", "target_group_arn")


def follow_of(model_uri: str) -> str:
    """What a deployment made from this URI follows: its stage, its @alias, or nothing ('pinned')."""
    name, _, last = model_uri.removeprefix("models:/").rpartition("/")
    if not model_uri.startswith("models:/"):
        return "pinned"
    if not name:
        alias = last.rpartition("@")[2]
        return f"@{alias}" if "@" in last else "pinned"
    return next((stage for stage in STAGES if stage.lower() == last.lower()), "pinned")


def check_name(name: str) -> str:
    """`name`, if a deployment can be called so."""
    if DEPLOYMENT_NAME.fullmatch(name):
        return name
    raise InvalidOption(f"'{name}' cannot be a deployment's name.", hint=NAME_HINT)


def provenance_of(model: ResolvedModel, flavor: str) -> Provenance:
    """Where the model came from, as it will stand on the task definition."""
    where = {"name": model.name, "version": model.version, "run_id": model.run_id}
    return Provenance(model.requested_uri, model.resolved_uri, model.fingerprint, flavor, **where)


def check_change(before: DeploymentStatus, config: DeploymentConfig, options: NamedOptions) -> None:
    """InvalidOption where an update asks for what ECS or a load balancer cannot do to a deployment that stands.

    `config`: what its settings become with the `options` that were named.
    """
    moved = [door for door in _DOORS if getattr(config, door) != getattr(before.settings, door)]
    if moved:
        raise InvalidOption(
            f"An update cannot move '{before.name}' to another load balancer ({moved[0]}).",
            hint="delete the deployment and create it again, or create another beside it",
        )
    if before.settings.shifts_traffic and not before.strategy_refused:
        _check_shift(before.name, before.settings, config)
    if config.is_scaled and "desired_count" in options.keys:
        raise InvalidOption(
            f"Autoscaling counts the tasks of '{before.name}' ({config.min_count} to {config.max_count}).",
            hint="change min_count and max_count, or put autoscaling off with max_count=",
        )


def needs_another_image(kept: DeploymentConfig, config: DeploymentConfig, options: NamedOptions) -> bool:
    """Whether an update that names no model still needs its image built anew: `kept` becomes `config` by `options`."""
    is_shaped = any(getattr(kept, name) != getattr(config, name) for name in OF_THE_IMAGE)
    return is_shaped or not options.keys.isdisjoint(_NAMES_OF_CONTENT)


def _check_shift(name: str, kept: DeploymentConfig, config: DeploymentConfig) -> None:
    """What cannot be changed of a deployment whose traffic is shifted."""
    if not config.shifts_traffic:
        raise InvalidOption(
            f"An update cannot put '{name}' from strategy={kept.strategy} back to rolling: its tasks may serve from "
            "the second target group, which a rolling service has not.",
            hint="delete the deployment and create it again; or strategy=blue_green with bake_time_minutes=0",
        )
    if config.port != kept.port:
        raise InvalidOption(
            f"An update cannot change the port of '{name}': strategy={config.strategy} keeps its two target groups.",
            hint="delete the deployment and create it again, or create another beside it",
        )
