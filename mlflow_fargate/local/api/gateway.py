"""AWS as far as mlflow-fargate uses it, on this machine: a thin WSGI layer in front of an unmodified moto, one process.

    S3                        → S3App             objects on disk
    ECS services, tasks       → EcsApi, Engine    tasks are processes, rolled out, checked and rolled back
    ECR                       → EcrApi            its images are those of the local registry
    Elastic Load Balancing    → ElbApi            addresses and target health as they are here
    everything else           → moto              IAM, EC2, CloudWatch Logs, Secrets Manager, task definitions …

The only module that imports moto. The engine asks moto within the process, behind the front's back (inner_aws). moto
keeps its state in module globals, so one Gateway at a time lives in a process; a new one begins empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from mlflow_fargate.local.api.ecr import EcrApi
from mlflow_fargate.local.api.ecs import EcsApi
from mlflow_fargate.local.api.elb import ElbApi
from mlflow_fargate.local.api.exec_sessions import ExecSessions
from mlflow_fargate.local.api.protocol import AwsRequest, Refusal, Response, error_response, parse_request
from mlflow_fargate.local.container.image_store import ImageStore
from mlflow_fargate.local.container.runner import ProcessRunner, TaskRunner
from mlflow_fargate.local.engine.engine import Engine
from mlflow_fargate.local.engine.routes import RouteTable
from mlflow_fargate.local.engine.snapshot import ServiceSnapshot, take_snapshots
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.guard import WsgiApp
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.moto_client import MotoClient, call_app
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.signature import Keys, SignatureRefused, claimed_service, verify

logger = logging.getLogger(__name__)

_DEFAULT_INHERITED: Mapping[str, str] = MappingProxyType({"LANG": "C.UTF-8"})


class Gateway:
    """A WSGI application that answers as AWS in `region`; tasks run between start() and stop().

    It answers those who sign with `keys`.
    `registry` and `load_balancer` have been started: their addresses stand in answers. `directory` holds unpacked
    images and what tasks write. `inherited` is what tasks see of the environment around, such as LANG; `of_roles`
    gives what those with a role see besides: whoever starts this knows where it answers. `minute_seconds` is how long a
    minute of a bake time lasts.
    """

    def __init__(
        self,
        *,
        region: str,
        keys: Keys,
        registry: LocalRegistry,
        s3: WsgiApp,
        load_balancer: LoadBalancer,
        directory: Path,
        runner: TaskRunner | None = None,
        inherited: Mapping[str, str] = _DEFAULT_INHERITED,
        minute_seconds: float = 60.0,
        of_roles: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._s3 = s3
        self._keys = keys
        self._moto: WsgiApp = DomainDispatcherApplication(create_backend_app)
        call_app(self._moto, "POST", "http://moto/moto-api/reset", {}, b"")
        self._store = EcsStore()
        self._aws = MotoClient(self._moto, region)
        self._routes = RouteTable(self._aws, self._store, load_balancer)
        self._runner = runner or ProcessRunner(
            ImageStore(registry.store, registry.address, directory), directory, inherited, of_roles
        )
        self._engine = Engine(self._store, self._aws, self._runner, routes=self._routes, minute_seconds=minute_seconds)
        self._sessions = ExecSessions(keys)
        self._apis: dict[str, Callable[[AwsRequest], Response]] = {
            "ecs": EcsApi(self._engine, self._aws, self._forward, self._sessions),
            "ecr": EcrApi(registry, DEFAULT_ACCOUNT_ID, self._aws, self._forward),
            "elasticloadbalancing": ElbApi(
                f"127.0.0.1:{load_balancer.port}",
                self._store,
                self._aws,
                self._forward,
                self._routes.listeners_changed,
            ),
        }

    def start(self) -> None:
        """Tasks may run from now on."""
        _open_default_vpc(self._aws.client("ec2"))
        self._engine.start()

    def stop(self) -> None:
        """Ends every task's processes and the threads, within seconds; may be called twice, and without start()."""
        self._engine.stop()

    def services(self) -> tuple[ServiceSnapshot, ...]:
        """The services with their rollouts and tasks: process ids, ports, health, reasons."""
        return take_snapshots(self._store)

    def logs_client(self) -> Any:
        """A boto3 client for what the tasks wrote, without a socket."""
        return self._aws.client("logs")

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        service = claimed_service(environ)
        if service is None and self._sessions.is_session(environ):
            response = self._sessions.follow(environ)
            start_response(
                f"{response.status} {'Error' if response.is_error else 'OK'}", list(response.headers.items())
            )
            return [response.body]
        if service == "s3" or (service is None and not _is_call(environ)):
            return self._s3(environ, start_response)
        speaks_json = "HTTP_X_AMZ_TARGET" in environ
        try:
            response = self._response(environ)
        except Refusal as refusal:
            response = error_response(refusal, speaks_json=speaks_json)
        except Exception:
            # A bug here or in moto: told in the log, and to the client as AWS tells its own.
            logger.exception("%s %s failed", environ.get("HTTP_X_AMZ_TARGET", ""), environ.get("PATH_INFO", ""))
            failure = Refusal("InternalFailure", "The local stack failed to answer; its log tells why.", 500)
            response = error_response(failure, speaks_json=speaks_json)
        start_response(f"{response.status} {'Error' if response.is_error else 'OK'}", list(response.headers.items()))
        return [response.body]

    def _response(self, environ: dict[str, Any]) -> Response:
        try:
            scope = verify(environ, self._keys)
        except SignatureRefused as refused:
            raise Refusal(refused.code, refused.message, 403) from refused
        if _is_of_moto(environ):
            raise Refusal(
                "UnknownOperationException", "AWS has nothing at this address; call one of its services.", 404
            )
        api = self._apis.get(scope.service)
        try:
            return (
                _run(self._moto, environ) if api is None else api(parse_request(environ, scope.service, scope.region))
            )
        except NotImplementedError as error:
            # moto's way of saying so would be a 500, which clients retry.
            raise Refusal("UnknownOperationException", f"The local stack does not play this: {error}") from error
        except ClientError as error:
            said = error.response["Error"]
            raise Refusal(said.get("Code", "ClientException"), said.get("Message", "")) from error

    def _forward(self, request: AwsRequest) -> Response:
        """moto's answer to a request that the front has read."""
        return _run(self._moto, request.as_environ())


def _run(app: WsgiApp, environ: dict[str, Any]) -> Response:
    chunks, status, headers = run_wsgi_app(app, environ, buffered=True)
    return Response(int(status.split(" ", 1)[0]), dict(headers.items()), b"".join(chunks))


def _is_call(environ: Mapping[str, Any]) -> bool:
    """Whether an unsigned request looks like a call to another service than S3, and is refused in such words."""
    is_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    return "HTTP_X_AMZ_TARGET" in environ or is_form or _is_of_moto(environ)


def _is_of_moto(environ: Mapping[str, Any]) -> bool:
    """Addresses at which moto answers of itself: to reset it, to read and to seed what it holds."""
    return str(environ.get("PATH_INFO", "")).lower().lstrip("/").startswith("moto-api")


def _open_default_vpc(ec2: Any) -> None:
    """Gives the default VPC its way to the internet, as AWS's has; without it all subnets would look private."""
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    of_vpc = {"Name": "vpc-id", "Values": [vpc]}
    tables = ec2.describe_route_tables(Filters=[of_vpc, {"Name": "association.main", "Values": ["true"]}])
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    table = tables["RouteTables"][0]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
