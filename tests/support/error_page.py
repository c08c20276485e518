"""Writes docs/errors.md: each error that AWS documents for a call of this package, and what happens then."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import botocore.session

from mlflow_fargate.aws.error_table import _ROWS, Fault, classify

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
# https://docs.aws.amazon.com/AmazonECS/latest/APIReference/CommonErrors.html, and of the other services
COMMON = (
    "AccessDeniedException", "AuthFailure", "ExpiredTokenException", "IncompleteSignature", "InternalFailure",
    "InvalidAction", "InvalidClientTokenId", "InvalidParameterCombination", "InvalidParameterValue",
    "InvalidQueryParameter", "InvalidSignatureException", "MalformedHttpRequestException", "MalformedQueryString",
    "MissingAction", "MissingAuthenticationToken", "MissingParameter", "NotAuthorized", "OptInRequired",
    "PendingVerification", "RequestAbortedException", "RequestEntityTooLargeException", "RequestExpired",
    "RequestLimitExceeded", "RequestTimeoutException", "RequestTimeTooSkewed", "ServiceUnavailable",
    "SignatureDoesNotMatch", "Throttling", "ThrottlingException", "Unavailable", "UnauthorizedOperation",
    "UnknownOperationException", "UnrecognizedClientException", "ValidationError",
)  # fmt: skip
# EC2's errors are not in its model: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
OF_EC2 = (
    "DependencyViolation", "InvalidGroup.Duplicate", "InvalidGroup.InUse", "InvalidGroup.NotFound",
    "InvalidGroupId.Malformed", "InvalidPermission.Duplicate", "InvalidPermission.NotFound", "InvalidSubnetID.NotFound",
    "InvalidVpcID.NotFound", "RulesPerSecurityGroupLimitExceeded", "SecurityGroupLimitExceeded",
)  # fmt: skip
PROVIDER = "https://github.com/hashicorp/terraform-provider-aws/blob/main/internal/service"
WHAT = {
    "transient": "repeated for two minutes",
    "conflict": "adopted, if it is tagged as managed",
    "absent": "ignored by a deletion, else explained",
    "user": "explained",
    "quota": "explained",
}


def operations() -> set[tuple[str, str]]:
    """Returns every (service, operation) that aws/ can call."""
    found = set()
    for path in sorted((ROOT / "mlflow_fargate" / "aws").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"call", "delete", "find", "pages"}
                and len(node.args) >= 2  # a kind of resource has a `delete` too
            ):
                service, operation = node.args[:2]
                if path.name == "session.py" and isinstance(service, ast.Name):
                    continue  # `delete` passes its operation to `call`
                assert isinstance(service, ast.Constant), (path, node.lineno)
                assert isinstance(operation, ast.Constant), (path, node.lineno)
                found.add((service.value, "".join(part.capitalize() for part in operation.value.split("_"))))
    return found


def documented_errors() -> Iterator[tuple[str, str]]:
    """Yields ("ecs:CreateService", code) of each error in AWS's models of the services, and of the common ones."""
    session = botocore.session.get_session()
    for service, operation in sorted(operations()):
        shapes = session.get_service_model(service).operation_model(operation).error_shapes
        codes = {(shape.metadata.get("error") or {}).get("code") or shape.name for shape in shapes}
        for code in sorted(codes.union(COMMON, OF_EC2 if service == "ec2" else ())):
            yield f"{service}:{operation}", code


def page() -> str:
    """Returns the text of docs/errors.md."""
    found: dict[tuple[str, str, Fault], list[str]] = {}
    counts: Counter[str] = Counter()
    for operation, code in documented_errors():
        fault = classify(operation, code, "")
        counts[fault.meaning] += 1
        where = "all" if code in COMMON else operation.partition(":")[0]
        hint = "the statement that is missing" if "add this to the policy" in str(fault.hint) else fault.hint
        calls = found.setdefault((where, code, Fault(fault.meaning, hint)), [])
        if where != "all":
            calls.append(operation.partition(":")[2])
    rows = [
        f"| {where} | {code} | {_listed(calls)} | {WHAT[fault.meaning]} | {fault.hint or ''} |"
        for (where, code, fault), calls in sorted(found.items(), key=_order)
    ]
    number = len(operations())
    summary = ", ".join(f"{counts[meaning]:,} {meaning}" for meaning in WHAT)
    text = f"""# Errors of AWS

The package calls {number} operations of AWS. For each, this table has the errors in AWS's own model of the service
(botocore {botocore.__version__}) and the errors common to all, {counts.total():,} in all ({summary}). Before that,
botocore repeats throttled calls and server errors for seconds. Some messages have a more exact hint than their code
alone. An error that AWS has not documented is shown with its message, the request ID and what to do.

| service | error | calls | what happens | hint |
|---|---|---|---|---|
"""
    return "\n".join([text.rstrip("\n"), *rows, "", *_repeated(), ""])


def _repeated() -> Iterator[str]:
    """The second table: why each error is repeated."""
    yield "## Why an error is repeated"
    yield ""
    yield (
        "Codes match as prefixes. A file is one of the Terraform AWS provider, below internal/service: it repeats the "
        "same call, or waits until it would succeed."
    )
    yield ""
    yield "| call | error | its message contains | source |"
    yield "|---|---|---|---|"
    for row in _ROWS:
        if row.meaning == "transient":
            link = row.source if row.source.startswith("https://") else f"{PROVIDER}/{row.source}"
            name = link.removeprefix("https://").partition("/")[0] if link == row.source else row.source
            yield f"| {row.operation or 'any'} | {row.code} | {row.part} | [{name}]({link}) |"


def _order(item: tuple[tuple[str, str, Fault], list[str]]) -> tuple[bool, str, str, list[str]]:
    (where, code, _), calls = item
    return where != "all", where, code, calls


def _listed(calls: list[str]) -> str:
    return ", ".join(calls) if len(calls) <= 4 else f"{len(calls)} calls"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
