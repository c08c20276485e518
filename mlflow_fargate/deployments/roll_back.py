"""Rolling back: which revision to return to, and its rollout."""

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
    """Rolls out revision `to`, or the one that last completed a rollout before the current: its model and options.

    Revisions that ECS or an earlier rollback went back from are not chosen, unless they were rolled out again since.
    A rollback that was interrupted, or did not wait long enough, is finished first.

    The number of tasks is not changed. The deployment is pinned from then on; otherwise the webhook service would
    deploy the newer version again. `options`: wait, timeout_seconds.
    """
    before = deployer.get(name)
    revisions = history(deployer, name, limit=100)
    revision = choose_revision(revisions, to)
    deployer.progress.step(f"Rolling back to revision {revision.number}: {revision.provenance.resolved_uri}")
    # Options recorded on the service are kept; revisions do not have them.
    kept = {key: value for key, value in before.settings.named.items() if key in OF_THE_SERVICE}
    config = options.over(read_config({**revision.settings.named, **kept}))
    endpoint = deployer.endpoint.spec(config, before, options.names)
    spec = DeploymentSpec(name, endpoint, config, revision.image, revision.provenance, "pinned", keeps_count=True)
    left = _unfinished(revisions, revision) or next((item for item in revisions if item.is_current), None)
    # Before the rollout, because an interrupted command must not be lost; it counts only if this rollout is the next.
    if left:
        deployer.endpoint.mark_left(left, revision, is_done=False)
    status = deployer.roll_out(spec, before)
    if left:
        deployer.endpoint.mark_left(left, revision, is_done=True)
    if before.follow != "pinned":
        again = f"mlflow deployments update -t {deployer.target.uri} --name {name} -C follow={before.follow}"
        deployer.progress.note(f"now pinned, so the webhook service will not update it (was following {before.follow})")
        deployer.progress.note(f"to follow {before.follow} again: {again}")
    return status or deployer.get(name)


def choose_revision(revisions: Sequence[Revision], to: int | None = None) -> Revision:
    """Returns the revision to roll back to, from those given (newest first); InvalidOption if there is none."""
    current = next((revision for revision in revisions if revision.is_current), None)
    if current and _unfinished(revisions, current) and to in (None, current.number):
        return current
    if to is not None:
        return _named_revision(revisions, to, current)
    # Times are in whole seconds: of two rollouts in one, the current one is the later.
    newest = max(revisions, key=lambda revision: (revision.rolled_out_at or "", revision.is_current), default=None)
    if current and newest and newest is not current and (newest.state == "FAILED" or newest.was_left):
        raise InvalidOption(
            f"The rollout of revision {newest.number} failed, and ECS already rolled back to {current.number}.",
            hint=f"to go further back, choose a revision: --to REVISION (one of {_numbers(revisions)})",
        )
    earlier = [item for item in revisions if item.completed_at and not (item.is_current or item.was_left)]
    if not earlier:
        raise InvalidOption(
            "No earlier revision with a completed rollout is on record in ECS.",
            hint=f"choose one: --to REVISION (one of {_numbers(revisions)})" if len(revisions) > 1 else None,
        )
    return max(earlier, key=lambda revision: revision.completed_at or "")


def _unfinished(revisions: Sequence[Revision], to: Revision) -> Revision | None:
    """The revision from which an interrupted rollback went back to this one."""
    found = (item for item in revisions if item.unfinished_rollback_to == to.number)
    return next(found, None) if to.is_current else None


def _named_revision(revisions: Sequence[Revision], to: int, current: Revision | None) -> Revision:
    found = next((revision for revision in revisions if revision.number == to), None)
    if found is None:
        raise InvalidOption(f"There is no revision {to}.", hint=f"use one of {_numbers(revisions)}")
    if found == current:
        raise InvalidOption(f"Revision {to} is already deployed.")
    return found


def _numbers(revisions: Sequence[Revision]) -> str:
    return ", ".join(str(revision.number) for revision in revisions)
