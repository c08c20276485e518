"""Variants of a deployment: how its requests are divided among it and them, and promoting one.

A variant is a deployment of its own (`variant_of`), with its own size, tasks, logs and history, so all other commands
work on it as on any deployment. Deleting it gives its share back first.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.rules import check_share, new_shares
from mlflow_fargate.errors import DeploymentNotFound, FargateError, InvalidOption, did_you_mean

_NONE = NamedOptions()


def shares(deployer: Deployer, name: str) -> list[tuple[DeploymentStatus, int]]:
    """Returns the deployment and its variants, each with its percentage of the requests."""
    _main(deployer, name)
    found = deployer.endpoint.shares(name)
    return [(deployer.get(one), percent) for one, percent in found.items()]


def divide(deployer: Deployer, name: str, changes: Mapping[str, int]) -> None:
    """Sets the percentages of variants, by their names; the deployment gets the rest. No rollout.

    Raises InvalidOption or DeploymentNotFound before the first write, also for a variant without healthy tasks.
    """
    _main(deployer, name)
    now = deployer.endpoint.shares(name)
    wanted = {_full_name(deployer, name, variant, now): percent for variant, percent in changes.items()}
    after = new_shares(name, now, wanted)
    for one in wanted:
        check_share(one, deployer.get(one).settings, after.get(one, 0))
    deployer.rollouts.divide(name, after)


def promote(deployer: Deployer, name: str, variant: str, options: NamedOptions = _NONE) -> DeploymentStatus:
    """Rolls the variant's model out to the deployment, with the deployment's options, then deletes the variant.

    Run again, it finishes an interrupted promotion. What the deployment follows stays if it is the variant's model by
    now; otherwise the deployment is pinned, or the webhook service would go back. `options`: timeout_seconds.
    """
    before = _main(deployer, name)
    chosen = deployer.get(_full_name(deployer, name, variant, deployer.endpoint.shares(name)))
    uri = _followed(deployer, before, chosen) or chosen.provenance.resolved_uri
    deployer.progress.step(f"Promoting {chosen.name}: {name} gets {chosen.provenance.resolved_uri}")
    status = deployer.update(name, uri, chosen.provenance.flavor, options)
    deployer.delete(chosen.name)
    return status or before


def _main(deployer: Deployer, name: str) -> DeploymentStatus:
    status = deployer.get(name)
    if status.settings.variant_of:
        raise InvalidOption(f"'{name}' is itself a variant.", hint=f"pass --name {status.settings.variant_of}")
    return status


def _full_name(deployer: Deployer, name: str, variant: str, known: Mapping[str, int]) -> str:
    """The variant's name as a deployment; it can be given either way."""
    variants = [one for one in known if one != name]
    if found := next((one for one in variants if variant in (one, one.removeprefix(f"{name}-"))), None):
        return found
    if variant == name:
        raise InvalidOption(f"'{name}' gets what its variants do not.", hint="pass the shares of its variants")
    create = f"mlflow deployments create -t {deployer.target.uri} --name {name}-{variant} -C variant_of={name} -m …"
    raise DeploymentNotFound(
        f"'{name}' has no variant '{variant}'" + (f"; it has {', '.join(variants)}." if variants else "."),
        hint=did_you_mean(variant, [one.removeprefix(f"{name}-") for one in variants]) or f"create it: {create}",
    )


def _followed(deployer: Deployer, before: DeploymentStatus, chosen: DeploymentStatus) -> str | None:
    """The URI that the deployment follows, if that is the variant's model; a note on how to follow it again if not."""
    follow, model = before.follow, chosen.provenance.name
    if follow == "pinned" or model is None:
        return None
    uri = f"models:/{model}{follow}" if follow.startswith("@") else f"models:/{model}/{follow}"
    try:
        if deployer.publisher.resolve(uri, None).resolved_uri == chosen.provenance.resolved_uri:
            return uri
    except FargateError as error:
        deployer.progress.note(error.message.splitlines()[0])
    deployer.progress.note(
        f"{uri} is not {chosen.provenance.resolved_uri}, so '{before.name}' is pinned to that. To follow it again, "
        f"move it first; then: mlflow deployments update -t {deployer.target.uri} --name {before.name} -m {uri}"
    )
    return None
