"""SimulatePrincipalPolicy, answered below boto3 from one policy: actions, resources with wildcards, StringEquals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

from botocore.awsrequest import AWSResponse

from mlflow_fargate.aws.session import AwsSession

_PAGE = 7  # so that answers have several pages


@dataclass
class PolicySimulator:
    """What a caller with these statements is allowed; `blocked`: action → an element of the answer that says why."""

    statements: Sequence[Mapping[str, Any]]
    blocked: Mapping[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)

    @contextmanager
    def answering(self, session: AwsSession) -> Iterator[None]:
        event, events = "before-send.iam.SimulatePrincipalPolicy", session.client("iam").meta.events
        events.register_first(event, self._answer)
        try:
            yield
        finally:
            events.unregister(event, self._answer)

    def _answer(self, request: Any, **_: Any) -> AWSResponse:
        query = dict(parse_qsl(request.body.decode() if isinstance(request.body, bytes) else request.body))
        self.sources.add(query["PolicySourceArn"])
        actions, resources = _members(query, "ActionNames"), _members(query, "ResourceArns")
        keys = _members(query, "ContextEntries", ".ContextKeyName")
        context = dict(zip(keys, _members(query, "ContextEntries", ".ContextKeyValues.member.1"), strict=True))
        start = int(query.get("Marker", 0))
        shown = actions[start : start + _PAGE]
        self.asked += shown
        more = f"<IsTruncated>true</IsTruncated><Marker>{start + _PAGE}</Marker>" if actions[start + _PAGE :] else ""
        results = "".join(self._result(action, resources, context) for action in shown)
        body = f"<EvaluationResults>{results}</EvaluationResults>{more}"
        text = f"<R><SimulatePrincipalPolicyResult>{body}</SimulatePrincipalPolicyResult></R>"
        return AWSResponse(request.url, 200, {}, Body(text.encode()))

    def _result(self, action: str, resources: Sequence[str], context: Mapping[str, str]) -> str:
        decisions = [self._decide(action, resource, context) for resource in resources]
        each = "".join(
            f"<member><EvalResourceName>{resource}</EvalResourceName>"
            f"<EvalResourceDecision>{decision}</EvalResourceDecision></member>"
            for resource, decision in zip(resources, decisions, strict=True)
        )
        decision = "allowed" if set(decisions) == {"allowed"} else "implicitDeny"
        why = self.blocked.get(action, "")
        decision = "explicitDeny" if why == "explicitDeny" else decision
        return (
            f"<member><EvalActionName>{action}</EvalActionName><EvalDecision>{decision}</EvalDecision>"
            f"{why if why.startswith('<') else ''}<ResourceSpecificResults>{each}</ResourceSpecificResults></member>"
        )

    def _decide(self, action: str, resource: str, context: Mapping[str, str]) -> str:
        if action in self.blocked:
            return "implicitDeny"
        for statement in self.statements:
            wanted = statement["Resource"]
            conditions = statement.get("Condition", {}).values()
            if (
                action in statement["Action"]
                and any(fnmatchcase(resource, one) for one in _listed(wanted))
                and all(context.get(key) in _listed(value) for keys in conditions for key, value in keys.items())
            ):
                return "allowed"
        return "implicitDeny"


@dataclass
class Body:
    """The body of an answer, as urllib3 would hand it over."""

    body: bytes

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self.body


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _members(query: Mapping[str, str], name: str, rest: str = "") -> list[str]:
    found = {
        int(match[1]): value
        for key, value in query.items()
        if (match := re.fullmatch(rf"{name}\.member\.(\d+){re.escape(rest)}", key))
    }
    return [found[number] for number in sorted(found)]
