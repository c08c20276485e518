"""IAM policies, as far as the generated roles need them.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from typing_extensions import NotRequired


class PolicyStatement(TypedDict):
    Effect: str
    Action: list[str]
    Resource: str | list[str]
    Condition: NotRequired[Mapping[str, Mapping[str, str]]]


class Policy(TypedDict):
    Version: str
    Statement: list[PolicyStatement]


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
