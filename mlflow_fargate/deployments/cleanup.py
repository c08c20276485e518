"""Deletes what killed clients left behind; `Account.orphans` finds it."""

from __future__ import annotations

from dataclasses import replace

from mlflow_fargate.deployment import Orphan
from mlflow_fargate.deployments import webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.resources import WEBHOOK


def collect(deployer: Deployer, orphan: Orphan) -> None:
    """Deletes an orphan as a regular deletion would, including what carries no tags (images, policies).

    What an earlier deletion retained is kept.
    """
    there = replace(deployer, target=replace(deployer.target, endpoint=orphan.endpoint))
    where = f"endpoint '{orphan.endpoint}'"
    if orphan.is_deployed:
        deployer.progress.step(f"Deleting revisions of '{orphan.name}' on {where} that were never rolled out")
        there.endpoint.delete_revisions(str(orphan.name), orphan.resources)
    elif orphan.name is None:
        deployer.progress.step(f"Deleting leftover resources of {where}")
        deployer.delete_endpoint(orphan.endpoint)
    elif orphan.name == WEBHOOK:
        deployer.progress.step(f"Deleting leftover resources of the webhook service on {where}")
        webhook_service.delete(there)
    else:
        deployer.progress.step(f"Deleting leftover resources of '{orphan.name}' on {where}")
        there.delete(orphan.name, there.endpoint.retained(orphan.name))
