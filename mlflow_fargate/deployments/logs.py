"""Output of the tasks of a deployment or of the webhook service, past and new."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

from mlflow_fargate.deployment import LogLine
from mlflow_fargate.deployments import webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resources import WEBHOOK

_FOLLOW_SECONDS = 2.0  # FilterLogEvents allows five calls per second and account
# CloudWatch ingests lines out of order, up to some seconds late.
_LATE_MILLISECONDS = 15_000


def read_logs(
    deployer: Deployer,
    name: str,
    since_milliseconds: int,
    *,
    task: str | None = None,
    follow: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[LogLine]:
    """Yields the lines that the deployment's tasks (or one task) have written since then; with `follow`, endlessly.

    Yields each line once, in order of time except for late ones. `name` is WEBHOOK for the webhook service; `task`: an
    ID or, for a task that `endpoint.tasks` lists, its first characters. Raises InvalidOption for another `task`.
    """
    _ = webhook_service.get(deployer) if name == WEBHOOK else deployer.get(name)  # DeploymentNotFound
    task = task and _task_id(deployer, name, task)
    seen: dict[str, int] = {}  # event ID → time; only as far back as lines can be late
    while True:
        for line in deployer.endpoint.log_lines(name, since_milliseconds, task):
            if line.id not in seen:
                seen[line.id] = line.at_milliseconds
                yield line
        if not follow:
            return
        since_milliseconds = max([since_milliseconds, *(at - _LATE_MILLISECONDS for at in seen.values())])
        seen = {number: at for number, at in seen.items() if at >= since_milliseconds}
        sleep(_FOLLOW_SECONDS)


def _task_id(deployer: Deployer, name: str, given: str) -> str:
    known = [task.id for task in deployer.endpoint.tasks(name)]
    alike = [one for one in known if one.startswith(given)]
    if len(alike) == 1 or re.fullmatch("[0-9a-f]{32}", given):  # ECS forgets tasks an hour after they stopped
        return alike[0] if alike else given
    raise InvalidOption(
        f"'{given}' is {'the start of several task IDs' if alike else 'not a task'} of '{name}'.",
        hint=f"pass one of {', '.join(known)}, or the full ID of an older task" if known else "it has no tasks now",
    )
