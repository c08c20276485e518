"""Rules for deployments: valid names, what they follow, what an update cannot change. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlflow_fargate.config import OF_THE_IMAGE, DeploymentConfig, NamedOptions
from mlflow_fargate.deployment import DEPLOYMENT_NAME, NAME_HINT, STAGES, DeploymentStatus
from mlflow_fargate.errors import InvalidOption, ModelNotFound, did_you_mean
from mlflow_fargate.plan import Plan
from mlflow_fargate.resolved_model import Provenance, ResolvedModel, printable
from mlflow_fargate.resources.properties import ServiceProperties

# The content of these files and URIs can change without a change of name.
_NAMES_OF_CONTENT = frozenset({"labels", "service", "models"})
_ENTRY_OPTIONS = ("load_balancer_arn", "listener_arn", "target_group_arn")
_SHARED_OPTIONS = ("auth", "load_balancer_arn", "listener_arn")  # of a deployment and its variants
_NETWORK = ("vpc", "subnets", "security_groups", "assign_public_ip", "execution_role_arn")
_MOST_GROUPS = 5  # of a listener rule: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html
_ALL = 100  # percent


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
    if config.variant_of != before.settings.variant_of or (config.variant_of and config.port != before.settings.port):
        raise InvalidOption(
            f"An update cannot change variant_of, or the port of a variant ('{before.name}').",
            hint="delete the deployment and create it again, or create a second one",
        )
    if before.settings.shifts_traffic and not before.strategy_refused:
        _check_shift(before.name, before.settings, config)
    if config.is_scaled and "desired_count" in options.given:
        raise InvalidOption(
            f"Autoscaling controls the number of tasks of '{before.name}' ({config.min_count} to {config.max_count}).",
            hint="change min_count and max_count, or turn autoscaling off with max_count=",
        )


def check_variant(name: str, config: DeploymentConfig, champion: DeploymentStatus) -> None:
    """Raises InvalidOption if a new deployment with these options cannot be a variant of `champion`."""
    kept = champion.settings
    if not name.startswith(f"{champion.name}-") or name == f"{champion.name}-":
        raise InvalidOption(
            f"'{name}' is not a valid name for a variant of '{champion.name}'.",
            hint=f"begin it with '{champion.name}-': {champion.name}-challenger is the variant 'challenger'",
        )
    used = f"strategy={kept.strategy}" if kept.shifts_traffic else None
    if used := used or next((one for one in ("variant_of", "target_group_arn") if getattr(kept, one)), None):
        raise InvalidOption(
            f"'{champion.name}' has {used}, so it cannot have variants: their shares are weights of its own rule.",
            hint="create a deployment with strategy=rolling and without variant_of and target_group_arn",
        )
    for option in _SHARED_OPTIONS:
        if getattr(config, option) != getattr(kept, option):
            raise InvalidOption(
                f"{option} is that of '{champion.name}': callers reach both at one URL, with one API key.",
                hint=f"leave out {option}=",
            )


def inherited(champion: DeploymentStatus) -> dict[str, Any]:
    """Returns the options that a new variant has from its deployment unless it names them: access and network."""
    return {key: value for key, value in champion.settings.named.items() if key in (*_SHARED_OPTIONS, *_NETWORK)}


def check_share(name: str, config: DeploymentConfig, share: int) -> None:
    """Raises InvalidOption if a variant with this percentage of the requests could be without tasks."""
    if share and not config.fewest_tasks:
        raise InvalidOption(
            f"'{name}' with {share}% of the requests needs a task at all times (desired_count, min_count, schedule): "
            "without one, callers get 503 for its share.",
            hint=f"first set its share to 0: mlflow-fargate traffic --name {config.variant_of} {name}=0",
        )


def new_shares(name: str, shares: Mapping[str, int], changes: Mapping[str, int]) -> dict[str, int]:
    """Returns deployment → percent of the requests to `name`, which gets what its variants do not.

    InvalidOption if `changes` to the current `shares` are impossible. Variants without requests are left out.
    """
    wrong = next((one for one, percent in changes.items() if not 0 <= percent <= _ALL), None)
    if wrong:
        raise InvalidOption(f"{wrong}={changes[wrong]}: a share is a whole number of percent from 0 to {_ALL}.")
    variants = {**{one: percent for one, percent in shares.items() if one != name}, **changes}
    variants = {one: percent for one, percent in sorted(variants.items()) if percent}
    total = sum(variants.values())
    if total > _ALL:
        listed = ", ".join(f"{one}={percent}" for one, percent in variants.items())
        raise InvalidOption(
            f"The variants of '{name}' would get {total}% of its requests: {listed}.",
            hint=f"they can get {_ALL}% together, and {name} gets the rest",
        )
    if len(variants) >= _MOST_GROUPS:
        raise InvalidOption(
            f"{len(variants)} variants of '{name}' would get requests; a listener rule has at most {_MOST_GROUPS} "
            "target groups, its own among them.",
            hint="set the share of another variant to 0 first",
        )
    return {name: _ALL - total, **variants}


def signature_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns how the signature in an MLmodel file differs from an earlier one, by column; [] if it does not."""
    found = []
    for part in ("inputs", "outputs", "params"):
        old, new = _columns(before, part), _columns(after, part)
        found += [f"{part} lack {one}" for one in old if one not in new]
        found += [f"{part} have {one}" for one in new if one not in old]
    return found


def _columns(metadata: Mapping[str, Any], part: str) -> list[str]:
    """What a signature lists, as MLflow writes it: {"type": "long", "name": "age", "required": true}"""
    try:
        listed = json.loads((metadata.get("signature") or {}).get(part) or "[]")
    except (AttributeError, TypeError, ValueError):
        listed = ["what cannot be read"]
    return [printable(json.dumps(one)) for one in (listed if isinstance(listed, list) else [listed])]


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
