"""An earlier revision serves again: which one, and the rollout that brings it back."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_fargate.config import OF_THE_SERVICE, NamedOptions, read_config
from mlflow_fargate.deployment import DeploymentStatus, Revision
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.operations import history
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resources import DeploymentSpec

_NONE = NamedOptions()


def roll_back(deployer: Deployer, name: str, to: int | None = None, options: NamedOptions = _NONE) -> DeploymentStatus:
    """The deployment as it was at revision `to`, or at the last one before the current that was rolled out.

    Model and options are that revision's; how many tasks run stays as it is. The deployment is pinned from then on:
    the webhook service would otherwise bring the newer version back. `options`: wait, timeout_seconds.
    """
    before = deployer.get(name)
    revision = choose_revision(history(deployer, name, limit=100), to)
    deployer.progress.step(f"back to revision {revision.number}: {revision.provenance.resolved_uri}")
    # What stands on the service stays; a revision knows nothing of it.
    kept = {key: value for key, value in before.settings.named.items() if key in OF_THE_SERVICE}
    config = options.over(read_config({**revision.settings.named, **kept}))
    endpoint = deployer.endpoint.spec(config)
    status = deployer.roll_out(DeploymentSpec(name, endpoint, config, revision.image, revision.provenance, "pinned"))
    if before.follow != "pinned":
        again = f"mlflow deployments update -t {deployer.target.uri} --name {name} -C follow={before.follow}"
        deployer.progress.note(f"pinned now, so that the webhook service leaves it alone (it followed {before.follow})")
        deployer.progress.note(f"to let it follow again: {again}")
    return status or deployer.get(name)


def choose_revision(revisions: Sequence[Revision], to: int | None = None) -> Revision:
    """The revision to go back to, of those there are (newest first); InvalidOption when that would make no sense."""
    current = next((revision for revision in revisions if revision.is_current), None)
    if to is not None:
        return _named_revision(revisions, to, current)
    newest = max(revisions, key=lambda revision: revision.rolled_out_at or "", default=None)
    if current and newest and newest.state == "FAILED" and newest.number > current.number:
        raise InvalidOption(
            f"The rollout of revision {newest.number} failed, and ECS went back to {current.number} by itself.",
            hint=f"to go further back, name the revision: --to REVISION (of {_numbers(revisions)})",
        )
    earlier = [item for item in revisions if item.state == "COMPLETED" and current and item.number < current.number]
    if not earlier:
        raise InvalidOption(
            "There is no earlier revision of which ECS remembers a completed rollout.",
            hint=f"name one: --to REVISION (of {_numbers(revisions)})" if len(revisions) > 1 else None,
        )
    return earlier[0]


def _named_revision(revisions: Sequence[Revision], to: int, current: Revision | None) -> Revision:
    found = next((revision for revision in revisions if revision.number == to), None)
    if found is None:
        raise InvalidOption(f"There is no revision {to}.", hint=f"there are {_numbers(revisions)}")
    if found == current:
        raise InvalidOption(f"Revision {to} is the one that is deployed.")
    return found


def _numbers(revisions: Sequence[Revision]) -> str:
    return ", ".join(str(revision.number) for revision in revisions)
