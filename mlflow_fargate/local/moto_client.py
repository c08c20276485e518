"""boto3 clients for a WSGI app in this process: the engine calls moto without a socket, bypassing the gateway.

botocore's `before-send` event lets a handler respond instead of the network; the handler here runs the app. Task
definitions, target groups and secrets are returned as typed values; errors for missing ones have ECS's messages.
"""

from __future__ import annotations

import io
import ipaddress
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError
from werkzeug.test import EnvironBuilder, run_wsgi_app

from mlflow_fargate.local.guard import WsgiApp
from mlflow_fargate.local.task_definition import TaskDefinition

_make_response: Any = AWSResponse  # its published types are stricter than its code
_SECRET_FIELDS = 7  # arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME, then key, stage and version id


@dataclass(frozen=True)
class TargetGroupSettings:
    """How an ALB checks the targets of a group."""

    arn: str
    health_path: str
    interval_seconds: float
    timeout_seconds: float
    healthy_threshold: int
    unhealthy_threshold: int
    matcher: str
    deregistration_delay_seconds: float


class SecretMissing(Exception):
    """The message is what ECS writes after 'unable to pull secrets or registry auth: '."""


class MotoClient:
    """Reads the state of the AWS behind `app`, for one region."""

    def __init__(self, app: WsgiApp, region: str) -> None:
        self.region = region
        self._app = app
        self._session = boto3.Session()
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()  # threads can share clients, but not the session that creates them

    def client(self, service: str) -> Any:
        """Returns the boto3 client of `service`, created once."""
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make_client(service)
            return self._clients[service]

    def task_definition(self, name: str) -> TaskDefinition:
        """Returns the task definition by ARN, `family:revision` or family; ClientError if it does not exist."""
        answer = self.client("ecs").describe_task_definition(taskDefinition=name)
        return TaskDefinition.of_json(answer["taskDefinition"])

    def target_group(self, arn: str) -> TargetGroupSettings:
        client = self.client("elbv2")
        found = client.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"][0]
        attributes = client.describe_target_group_attributes(TargetGroupArn=arn)["Attributes"]
        values = {attribute["Key"]: attribute["Value"] for attribute in attributes}
        return TargetGroupSettings(
            arn=arn,
            health_path=found.get("HealthCheckPath") or "/",
            interval_seconds=max(1.0, float(found.get("HealthCheckIntervalSeconds") or 30)),
            timeout_seconds=float(found.get("HealthCheckTimeoutSeconds") or 5),
            healthy_threshold=int(found.get("HealthyThresholdCount") or 5),
            unhealthy_threshold=int(found.get("UnhealthyThresholdCount") or 2),
            matcher=(found.get("Matcher") or {}).get("HttpCode") or "200",
            deregistration_delay_seconds=float(values.get("deregistration_delay.timeout_seconds", 300)),
        )

    def subnet_network(self, subnet_id: str) -> ipaddress.IPv4Network:
        subnets = self.client("ec2").describe_subnets(SubnetIds=[subnet_id])["Subnets"]
        return ipaddress.IPv4Network(subnets[0]["CidrBlock"])

    def secret(self, value_from: str) -> str:
        """Returns a container secret's value: a Secrets Manager secret, a key in its JSON, or an SSM parameter."""
        if ":secretsmanager:" in value_from:
            return self._secrets_manager_value(value_from)
        name = value_from.split(":parameter", 1)[-1]
        try:
            answer = self.client("ssm").get_parameter(Name=name, WithDecryption=True)
        except ClientError as error:
            raise SecretMissing(
                "execution resource retrieval failed: unable to retrieve secrets from ssm: service call has been "
                f"retried 1 time(s): invalid parameters: {name} ({error.response['Error']['Code']})"
            ) from error
        return str(answer["Parameter"]["Value"])

    def _secrets_manager_value(self, value_from: str) -> str:
        parts = value_from.split(":")
        arn, options = ":".join(parts[:_SECRET_FIELDS]), [*parts[_SECRET_FIELDS:], "", "", ""]
        key, stage, version = options[:3]
        chosen = {"VersionStage": stage, "VersionId": version}
        failed = (
            "execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried "
            "1 time(s): "
        )
        try:
            answer = self.client("secretsmanager").get_secret_value(
                SecretId=arn, **{name: value for name, value in chosen.items() if value}
            )
        except ClientError as error:
            said = error.response["Error"]
            raise SecretMissing(
                f"{failed}failed to fetch secret {arn} from secrets manager: {said['Code']}: {said['Message']}"
            ) from error
        value: str = answer.get("SecretString") or answer["SecretBinary"].decode()
        if not key:
            return value
        try:
            return str(json.loads(value)[key])
        except (ValueError, KeyError, TypeError) as error:
            raise SecretMissing(
                f"{failed}retrieved secret from Secrets Manager did not contain json key {key}"
            ) from error

    def _make_client(self, service: str) -> Any:
        client = self._session.client(
            service,
            region_name=self.region,
            endpoint_url="http://inner.invalid",
            aws_access_key_id="engine",
            aws_secret_access_key="engine",  # noqa: S106  # moto does not check it
            # An unimplemented operation is a 500; retries would only delay the failure.
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )
        client.meta.events.register("before-send", self._answer)
        return client

    def _answer(self, request: Any, **_: Any) -> Any:
        body = request.body.read() if hasattr(request.body, "read") else request.body
        status, headers, content = call_app(self._app, request.method, request.url, request.headers, body)
        return _make_response(request.url, status, headers, _Raw(content))


def call_app(
    app: WsgiApp, method: str, url: str, headers: Mapping[str, Any], body: bytes | str | None
) -> tuple[int, dict[str, str], bytes]:
    """Returns the app's response to one request: status, headers, body."""
    parts = urlsplit(url)
    content = body.encode() if isinstance(body, str) else body or b""
    texts = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in headers.items()}
    texts.pop("Content-Length", None)
    builder = EnvironBuilder(
        path=parts.path or "/",
        query_string=parts.query,
        base_url=f"{parts.scheme}://{parts.netloc}",
        method=method,
        headers=list(texts.items()),
        input_stream=io.BytesIO(content),
        content_length=len(content),
    )
    chunks, status, answered = run_wsgi_app(app, builder.get_environ(), buffered=True)
    return int(status.split(" ", 1)[0]), dict(answered.items()), b"".join(chunks)


class _Raw:
    """The part of urllib3's response that botocore reads."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self.read = self._content.read

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self._content.read()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._content)


def tags_to_pairs(tags: Iterable[Mapping[str, str]]) -> tuple[tuple[str, str], ...]:
    """Returns ECS's [{key, value}] as pairs, in order."""
    return tuple((tag["key"], tag.get("value", "")) for tag in tags)
