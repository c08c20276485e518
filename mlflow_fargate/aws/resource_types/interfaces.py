"""EC2: the network interfaces that AWS removes minutes after a load balancer or its tasks are deleted.

Until then their security groups cannot be deleted. Users report 5 to 20 minutes for load balancers:
https://github.com/hashicorp/terraform-provider-aws/issues/3758 and issues/10347 there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, ForeignResource, RolloutTimeout

_SECONDS = 20 * 60
_PAUSE_SECONDS = 5.0
# Descriptions: "ELB app/NAME/ID" of a load balancer, "arn:aws:ecs:…:attachment/ID" of a task.
_LEAVING = ("ELB app/mlflow-fargate-", "arn:")


def wait_until_unused(
    session: AwsSession,
    group: str,
    update: Callable[[str], None],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Returns when no network interface has the security group; `update` shows what is awaited.

    Raises ForeignResource at once if something else uses the group, RolloutTimeout after 20 minutes. Without the
    permission to look, returns immediately: then the deletion itself is retried.
    """
    deadline = clock() + _SECONDS
    while interfaces := _interfaces(session, group):
        others = [item for item in interfaces if not _is_leaving(item)]
        if others:
            named = ", ".join(f"{item['NetworkInterfaceId']} ({item.get('Description', '')})" for item in others)
            raise ForeignResource(
                f"Security group {group} is not deleted: network interface {named} still uses it.",
                hint="delete what the interface belongs to, or give it another group; then run the command again",
            )
        what = f"{len(interfaces)} network interface(s) of what was deleted"
        if clock() > deadline:
            raise RolloutTimeout(
                f"AWS has not removed {what} after {_SECONDS // 60} minutes, so security group {group} remains.",
                hint="run the same command again later; it finishes the deletion",
            )
        update(f"waiting for AWS to remove {what}, for up to {_SECONDS // 60} minutes; Ctrl-C is safe")
        sleep(_PAUSE_SECONDS)


def _interfaces(session: AwsSession, group: str) -> list[dict[str, Any]]:
    of_group = [{"Name": "group-id", "Values": [group]}]
    try:
        return list(session.pages("ec2", "describe_network_interfaces", "NetworkInterfaces", Filters=of_group))
    except AwsError as error:
        if error.meaning == "user":
            return []
        raise


def _is_leaving(interface: Mapping[str, Any]) -> bool:
    return bool(interface.get("RequesterManaged")) and str(interface.get("Description", "")).startswith(_LEAVING)
