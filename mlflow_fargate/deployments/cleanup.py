"""What killed clients left behind, in the whole region: it is found, and deleted."""

from __future__ import annotations

from dataclasses import replace

from mlflow_fargate.deployment import Orphan
from mlflow_fargate.deployments import webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.resources import WEBHOOK


def orphans(deployer: Deployer) -> list[Orphan]:
    """What is left of deployments without a service and of endpoints without a cluster, in the whole region."""
    return list(deployer.account.orphans())


def collect(deployer: Deployer, orphan: Orphan) -> None:
    """Takes an orphan away, with what carries no tags (images, policies), as a deletion of what it was does.

    What an earlier deletion left on purpose stays.
    """
    if orphan.name is None:
        deployer.progress.step(f"delete what is left of endpoint '{orphan.endpoint}'")
        deployer.delete_endpoint(orphan.endpoint)
        return
    there = replace(deployer, target=replace(deployer.target, endpoint=orphan.endpoint))
    if orphan.name == WEBHOOK:
        deployer.progress.step(f"delete what is left of the webhook service on endpoint '{orphan.endpoint}'")
        webhook_service.delete(there)
        return
    deployer.progress.step(f"delete what is left of '{orphan.name}' on endpoint '{orphan.endpoint}'")
    there.delete(orphan.name, there.endpoint.retained(orphan.name))
