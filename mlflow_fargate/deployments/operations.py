"""The story after a deployment is there: look at it, go back, scale.

    history · events · tasks · logs     what AWS remembers; reads only
    roll_back · scale                   another rollout, another count; both end as the deployer's own verbs do
    open_command                        a command in a task, for the session-manager-plugin to follow
    orphans · collect                   what killed clients left behind

Functions over a `Deployer`: nothing is kept here.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mlflow_fargate.config import OF_THE_SERVICE, NamedOptions, read_config
from mlflow_fargate.deployment import DeploymentStatus, LogLine, Orphan, Revision, ServiceEvent, TaskStatus, Traffic
from mlflow_fargate.deployments import webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption, ToolMissing
from mlflow_fargate.resources import WEBHOOK, DeploymentSpec

_FOLLOW_SECONDS = 2.0  # FilterLogEvents allows five calls a second for the account
# CloudWatch takes lines in out of order, some seconds late.
_LATE_MILLISECONDS = 15_000
_NONE = NamedOptions()
_PLUGIN_PAGE = (
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
)


def history(deployer: Deployer, name: str, limit: int = 20) -> list[Revision]:
    """The deployment's newest revisions, newest first; DeploymentNotFound when there is none."""
    deployer.get(name)
    return deployer.endpoint.revisions(name, limit)


def events(deployer: Deployer, name: str) -> list[ServiceEvent]:
    """ECS's own words on the deployment, oldest first; DeploymentNotFound when there is none."""
    deployer.get(name)
    return deployer.endpoint.events(name)


def tasks(deployer: Deployer, name: str) -> list[TaskStatus]:
    """Tasks that run, then those that stopped within the last hour; DeploymentNotFound when there is none."""
    deployer.get(name)
    return deployer.endpoint.tasks(name)


def traffic(deployer: Deployer, name: str) -> list[Traffic]:
    """What the deployment was asked in the last hours; empty where nothing was counted."""
    return deployer.endpoint.traffic(name)


def watch(deployer: Deployer, name: str, timeout_seconds: float) -> DeploymentStatus:
    """Follows the rollout under way to its end; RolloutFailed or RolloutTimeout as with create and update."""
    deployer.get(name)
    deployer.endpoint.wait_until_rolled_out(name, timeout_seconds, deployer.progress, deployer.rollouts.test_of(name))
    return deployer.get(name)


def logs(
    deployer: Deployer,
    name: str,
    since_milliseconds: int,
    *,
    task: str | None = None,
    follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """The lines that the deployment's tasks (or the one named) wrote since a moment; with `follow`, for ever.

    Each line once, in the order of time but for those that CloudWatch learns of late.
    """
    deployer.get(name)
    yield from _lines(deployer, name, since_milliseconds, task=task, follow=follow, sleep=sleep)


def webhook_logs(
    deployer: Deployer,
    since_milliseconds: int,
    *,
    task: str | None = None,
    follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """The same of the webhook service on the target's endpoint."""
    webhook_service.get(deployer)
    yield from _lines(deployer, WEBHOOK, since_milliseconds, task=task, follow=follow, sleep=sleep)


def _lines(
    deployer: Deployer,
    name: str,
    since_milliseconds: int,
    *,
    task: str | None,
    follow: bool,
    sleep: Callable[[float], None],
) -> Iterator[LogLine]:
    told: dict[str, int] = {}  # event id → when; only as far back as lines may come late
    while True:
        for line in deployer.endpoint.log_lines(name, since_milliseconds, task):
            if line.id not in told:
                told[line.id] = line.at_milliseconds
                yield line
        if not follow:
            return
        since_milliseconds = max([since_milliseconds, *(at - _LATE_MILLISECONDS for at in told.values())])
        told = {number: at for number, at in told.items() if at >= since_milliseconds}
        sleep(_FOLLOW_SECONDS)


def open_command(deployer: Deployer, name: str, command: str, task: str | None = None) -> list[str]:
    """The command line that runs `command` in a task of the deployment: AWS's plugin, told which session to follow.

    ToolMissing, before a session is opened, where the plugin is not installed.
    """
    deployer.get(name)
    chosen = deployer.endpoint.runnable_task(name, task)
    plugin = deployer.target.surroundings.session_manager_plugin
    if shutil.which(plugin[0]) is None:
        raise ToolMissing(
            f"A command in a task needs AWS's '{plugin[0]}', which is not installed here.",
            hint=f"install it: {_PLUGIN_PAGE}\n  or run this where it is, as in AWS CloudShell: "
            + chosen.cli_command(command, deployer.account.region),
        )
    return [*plugin, *deployer.endpoint.open_command(chosen, command, deployer.target.profile)]


def scale(deployer: Deployer, name: str, count: int, options: NamedOptions = _NONE) -> DeploymentStatus:
    """The deployment with `count` tasks, healthy; no new revision, no rollout. `options`: wait, timeout_seconds."""
    status = deployer.update(name, None, None, options.also(desired_count=count))
    return status or deployer.get(name)


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
