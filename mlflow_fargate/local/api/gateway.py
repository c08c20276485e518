"""The parts of AWS that mlflow-fargate uses, on this machine: a list of handlers; the first that responds is used.

    credentials        → of a task's role, for tasks, which authenticate with a token
    exec sessions      → ExecSessions      for the local session-manager-plugin, which authenticates with a token
    S3                 → S3App             objects on disk; checks signatures itself, with S3's messages
    the signature      → signature.py      requests not signed with the stack's keys stop here
    moto's own API     → refused           it could reset moto, or show its data
    ECS, ECR, ELB      → EcsApi with the engine that runs tasks, EcrApi with the local registry, ElbApi
    CloudWatch         → CloudWatchApi     metrics of target groups
    everything else    → moto              IAM, EC2, CloudWatch Logs, Secrets Manager, task definitions …

The only module that imports moto. The engine calls moto within the process, bypassing the gateway (moto_client). moto
keeps its state in module globals, so a process can have only one Gateway at a time; a new one starts empty.
"""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from mlflow_fargate.local.api.cloudwatch import CloudWatchApi
from mlflow_fargate.local.api.ecr import EcrApi
from mlflow_fargate.local.api.ecs import EcsApi
from mlflow_fargate.local.api.elb import ElbApi
from mlflow_fargate.local.api.exec_sessions import ExecSessions
from mlflow_fargate.local.api.protocol import AwsRequest, Refusal, Response, error_response, parse_request
from mlflow_fargate.local.cloudwatch.alarms import AlarmEvaluator
from mlflow_fargate.local.container.task_runner import TaskRunner
from mlflow_fargate.local.engine.engine import Engine
from mlflow_fargate.local.engine.routes import RouteTable
from mlflow_fargate.local.engine.snapshot import ServiceSnapshot, take_snapshots
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.guard import WsgiApp
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.moto_client import MotoClient, call_app, tags_to_pairs
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.signature import Keys, SignatureRefused, claimed_service, verify

logger = logging.getLogger(__name__)

_Environ = dict[str, Any]
_Handler = Callable[[_Environ], WsgiApp | None]  # None: the next handler is called
ROLE_PATH = "/role-credentials"
_SCOPE = "mlflow_fargate.scope"  # key in a request's environ: what it is signed for, once verified


class Gateway:
    """A WSGI application that responds like AWS in `region` to requests signed with `keys`.

    `registry` and `load_balancer` must be started: responses contain their addresses. `runner` runs tasks between
    start() and stop(). `minute_seconds` is the length of a minute of bake time.
    """

    def __init__(
        self,
        *,
        region: str,
        keys: Keys,
        registry: LocalRegistry,
        s3: WsgiApp,
        load_balancer: LoadBalancer,
        runner: TaskRunner,
        minute_seconds: float = 60.0,
    ) -> None:
        self._keys = keys
        self._s3 = s3
        self._moto: WsgiApp = DomainDispatcherApplication(create_backend_app)
        call_app(self._moto, "POST", "http://moto/moto-api/reset", {}, b"")
        self._store = EcsStore()
        self._aws = aws = MotoClient(self._moto, region)
        routes = RouteTable(aws, self._store, load_balancer)
        alarms = AlarmEvaluator(aws, load_balancer.counts, minute_seconds)
        self._engine = Engine(self._store, aws, runner, routes=routes, alarms=alarms, minute_seconds=minute_seconds)
        self._sessions = ExecSessions(keys)
        address = f"127.0.0.1:{load_balancer.port}"
        self._apis: dict[str, Callable[[AwsRequest], Response]] = {
            "ecs": EcsApi(self._engine, aws, self._forward, self._sessions),
            "ecr": EcrApi(registry, DEFAULT_ACCOUNT_ID, aws, self._forward),
            "monitoring": CloudWatchApi(load_balancer.counts, aws, self._forward),
            "elasticloadbalancing": ElbApi(address, self._store, aws, self._forward, routes.listeners_changed),
        }
        self._handlers: tuple[_Handler, ...] = (
            self._serve_credentials,
            self._follow_exec_session,
            self._serve_s3,
            self._check_signature,
            _refuse_api_of_moto,
            self._serve_api,
            self._serve_moto,
        )

    def start(self) -> None:
        """Starts running tasks."""
        open_default_vpc(self._aws.client("ec2"))
        self._engine.start()

    def stop(self) -> None:
        """Ends all task processes and threads within seconds; can be called twice, and without start()."""
        self._engine.stop()

    def services(self) -> tuple[ServiceSnapshot, ...]:
        """Returns the services with their rollouts and tasks: process IDs, ports, health, reasons."""
        return take_snapshots(self._store)

    def tags_of(self, task_definition: str) -> dict[str, str]:
        """Returns the tags of a task definition; empty if it was deleted."""
        try:
            answer = self._aws.client("ecs").describe_task_definition(taskDefinition=task_definition, include=["TAGS"])
        except ClientError:
            return {}
        return dict(tags_to_pairs(answer.get("tags", ())))

    def logs_client(self) -> Any:
        """Returns a boto3 client for the tasks' logs, which does not use a socket."""
        return self._aws.client("logs")

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._respond(environ)(environ, start_response)

    def _respond(self, environ: _Environ) -> WsgiApp:
        try:
            return next(found for handler in self._handlers if (found := handler(environ)) is not None)
        except Exception as error:
            refusal = _as_refusal(error, f"{environ.get('HTTP_X_AMZ_TARGET', '')} {environ.get('PATH_INFO', '')}")
            return error_response(refusal, speaks_json="HTTP_X_AMZ_TARGET" in environ)

    # The handlers

    def _serve_credentials(self, environ: _Environ) -> WsgiApp | None:
        """Credentials in the format of ECS's agent; every role has those of the stack, which does not enforce IAM.

        Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
        """
        if environ.get("PATH_INFO") != ROLE_PATH:
            return None
        if not hmac.compare_digest(environ.get("HTTP_AUTHORIZATION", "").encode(), self._keys.role_token.encode()):
            raise Refusal("AccessDeniedException", "Only tasks with a role get its credentials.", 403)
        answer = {
            "AccessKeyId": self._keys.access_key_id,
            "SecretAccessKey": self._keys.secret_access_key,
            "Token": "local",
            "Expiration": (datetime.now(timezone.utc) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return Response(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _follow_exec_session(self, environ: _Environ) -> WsgiApp | None:
        return self._sessions.follow(environ) if claimed_service(environ) is None else None

    def _serve_s3(self, environ: _Environ) -> WsgiApp | None:
        service = claimed_service(environ)
        return self._s3 if service == "s3" or (service is None and not _is_call(environ)) else None

    def _check_signature(self, environ: _Environ) -> None:
        environ[_SCOPE] = verify(environ, self._keys)

    def _serve_api(self, environ: _Environ) -> WsgiApp | None:
        scope = environ[_SCOPE]
        api = self._apis.get(scope.service)
        return None if api is None else api(parse_request(environ, scope.service, scope.region))

    def _serve_moto(self, environ: _Environ) -> Response:
        chunks, status, headers = run_wsgi_app(self._moto, environ, buffered=True)
        return Response(int(status.split(" ", 1)[0]), dict(headers.items()), b"".join(chunks))

    def _forward(self, request: AwsRequest) -> Response:
        """Returns moto's response to a request whose body has been read."""
        return self._serve_moto(request.as_environ())


def _refuse_api_of_moto(environ: _Environ) -> None:
    if _is_of_moto(environ):
        raise Refusal("UnknownOperationException", "Not an address of an AWS service.", 404)


def _as_refusal(error: Exception, called: str) -> Refusal:
    """Returns AWS's error response; logs errors that are bugs here or in moto."""
    match error:
        case Refusal():
            return error
        case SignatureRefused():
            return Refusal(error.code, error.message, 403)
        case ClientError():
            said = error.response["Error"]
            return Refusal(said.get("Code", "ClientException"), said.get("Message", ""))
        case NotImplementedError():
            # moto itself would respond with a 500, which clients retry.
            return Refusal("UnknownOperationException", f"The local stack does not support this: {error}")
    logger.error("%s failed", called, exc_info=error)
    return Refusal("InternalFailure", "The local stack failed to respond; see its log.", 500)


def _is_call(environ: _Environ) -> bool:
    """Returns whether an unsigned request is for a service other than S3, which decides the form of the refusal."""
    is_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    return "HTTP_X_AMZ_TARGET" in environ or is_form or _is_of_moto(environ)


def _is_of_moto(environ: _Environ) -> bool:
    """Returns whether the path belongs to moto's own API, which resets it and reads or seeds its data."""
    return str(environ.get("PATH_INFO", "")).lower().lstrip("/").startswith("moto-api")


def open_default_vpc(ec2: Any) -> None:
    """Gives the default VPC an internet route, as on AWS; without it all subnets would look private."""
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    of_vpc = {"Name": "vpc-id", "Values": [vpc]}
    tables = ec2.describe_route_tables(Filters=[of_vpc, {"Name": "association.main", "Values": ["true"]}])
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = tables["RouteTables"][0]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
