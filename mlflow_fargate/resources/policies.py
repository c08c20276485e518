"""IAM's grammar, as far as the policies of roles that are made need it.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def policy_of(statements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A policy document."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions: Sequence[str], *resources: str) -> dict[str, Any]:
    """A statement that allows the actions on one resource or several."""
    return {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": resources[0] if len(resources) == 1 else [*resources],
    }
