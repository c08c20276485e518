"""What the tasks of a deployment, or of the webhook service, wrote; and what they write from now on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from mlflow_fargate.deployment import LogLine
from mlflow_fargate.deployments import webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.resources import WEBHOOK

_FOLLOW_SECONDS = 2.0  # FilterLogEvents allows five calls a second for the account
# CloudWatch takes lines in out of order, some seconds late.
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
    """The lines that tasks of the deployment (or the one named) wrote since a moment; with `follow`, for ever.

    Each line once, in the order of time but for those that CloudWatch learns of late. The webhook service is WEBHOOK.
    """
    _ = webhook_service.get(deployer) if name == WEBHOOK else deployer.get(name)  # DeploymentNotFound
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
