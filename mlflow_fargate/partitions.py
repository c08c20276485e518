"""AWS's partitions: which one a region is in, and the ARNs in it. The only place that knows them.

A partition is a separate AWS: accounts, roles and ARNs of one are unknown in another. The principals of ECS, Elastic
Load Balancing and Application Auto Scaling (ecs.amazonaws.com, …) are the same in all of them.
Source: https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html
"""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_fargate.errors import InvalidOption

_PREFIXES = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}


def partition_of(region: str) -> str:
    """Returns the partition of a region: aws, aws-cn or aws-us-gov."""
    return next((partition for prefix, partition in _PREFIXES.items() if region.startswith(prefix)), "aws")


def arn(region: str, service: str, account: str, resource: str, *, is_global: bool = False) -> str:
    """Returns the ARN of a resource of a service in a region; `is_global`: of IAM and S3, which name no region."""
    return f"arn:{partition_of(region)}:{service}:{'' if is_global else region}:{account}:{resource}"


def check_partition(options: Mapping[str, object], region: str) -> None:
    """Raises InvalidOption for the ARN of another partition, which no call in this region would accept."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            check_partition({f"{name}.{key}": inner for key, inner in value.items()}, region)
        elif isinstance(value, str) and value.startswith("arn:") and value.split(":")[1] != partition_of(region):
            raise InvalidOption(
                f"Option {name}={value} is in partition '{value.split(':')[1]}'; {region} is in "
                f"'{partition_of(region)}'.",
                hint="name a resource of this partition, or choose another region: -t fargate:/REGION",
            )
