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
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption, did_you_mean

_NONE = NamedOptions()


def shares(deployer: Deployer, name: str) -> list[tuple[DeploymentStatus, int]]:
    """Returns the deployment and its variants, each with its percentage of the requests."""
    _main(deployer, name)
    found = [(deployer.endpoint.status(one), percent) for one, percent in deployer.endpoint.shares(name).items()]
    return [(status, percent) for status, percent in found if status]  # without a service: partly created or deleted


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

    Run again, it finishes an interrupted promotion. The deployment is pinned from then on; otherwise the webhook
    service would deploy what its stage or alias still is. `options`: timeout_seconds.
    """
    before = _main(deployer, name)
    full_name = _full_name(deployer, name, variant, deployer.endpoint.shares(name))
    if chosen := deployer.endpoint.status(full_name):  # without a service, its deletion was interrupted
        uri = chosen.provenance.resolved_uri
        deployer.progress.step(f"Promoting {full_name}: {name} gets {uri}")
        deployer.update(name, uri, chosen.provenance.flavor, options)
        if before.follow != "pinned":
            again = f"mlflow deployments update -t {deployer.target.uri} --name {name} -C follow={before.follow}"
            deployer.progress.note(f"now pinned; once {before.follow} is {uri}, follow it again: {again}")
    deployer.delete(full_name)
    return deployer.get(name)


def _main(deployer: Deployer, name: str) -> DeploymentStatus:
    status = deployer.get(name)
    if status.settings.variant_of:
        raise InvalidOption(f"'{name}' is itself a variant.", hint=f"pass --name {status.settings.variant_of}")
    return status


def _full_name(deployer: Deployer, name: str, variant: str, known: Mapping[str, int]) -> str:
    """The variant's name as a deployment; it can be given either way."""
    variants = {one.removeprefix(f"{name}-"): one for one in known if one != name}
    if found := variants.get(variant, variant if variant in variants.values() else None):
        return found
    create = f"mlflow deployments create --name {name}-NAME -C variant_of={name} -m …"
    finish = f"mlflow deployments delete --name {name}-{variant}"
    raise DeploymentNotFound(
        f"'{name}' has no variant '{variant}'; its variants: {', '.join(variants) or 'none'}.",
        hint=did_you_mean(variant, variants) or f"create one: {create}; or finish an interrupted deletion: {finish}",
    )
