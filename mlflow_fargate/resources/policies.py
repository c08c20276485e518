"""IAM policies: of the generated roles, and those in docs/iam.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from typing_extensions import NotRequired

from mlflow_fargate.partitions import partition_of

_PACKAGE = Path(__file__).parents[1]
_DOCUMENTED = (_PACKAGE / "iam", _PACKAGE.parent / "docs" / "iam")  # as installed, and in a checkout


class PolicyStatement(TypedDict):
    Sid: NotRequired[str]
    Effect: str
    Action: list[str]
    Resource: str | list[str]
    Condition: NotRequired[Mapping[str, Mapping[str, str | list[str]]]]


class Policy(TypedDict):
    Version: str
    Statement: list[PolicyStatement]


def documented_policy(
    name: str, *, account: str, region: str | None, endpoint: str, bucket: str | None, log_bucket: str | None = None
) -> Policy:
    """Returns the policy `name` of docs/iam for one account: in all regions (None) or one, and for one endpoint.

    Statements on a bucket that is None are left out: that of models, and that of inference logs. Raises ValueError if
    the policy needs a region.
    """
    folder = next(path for path in _DOCUMENTED if path.is_dir())
    text = (folder / f"{name}.json").read_text(encoding="utf-8")
    if ":REGION:" in text and region is None:
        raise ValueError(f"The policy {name} is for one region")
    text = text.replace(":*:ACCOUNT:", f":{region or '*'}:ACCOUNT:").replace("ACCOUNT", account)
    text = text.replace("arn:aws:", f"arn:{partition_of(region or '')}:")
    policy: Policy = json.loads(text.replace("REGION", region or "").replace("ENDPOINT", endpoint))
    for place, given in {"ARTIFACT-BUCKET": bucket, "LOG-BUCKET": log_bucket}.items():
        if given is None:
            policy["Statement"] = [one for one in policy["Statement"] if place not in str(one["Resource"])]
        policy = json.loads(json.dumps(policy).replace(place, given or ""))
    return policy


def policy_of(statements: Sequence[PolicyStatement]) -> Policy:
    """Returns a policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: Sequence[str], *resources: str, if_equal: Mapping[str, str] | None = None) -> PolicyStatement:
    """Returns a statement that allows the actions on the resources, if the request's keys equal these values."""
    statement: PolicyStatement = {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": resources[0] if len(resources) == 1 else [*resources],
    }
    return {**statement, "Condition": {"StringEquals": if_equal}} if if_equal else statement
