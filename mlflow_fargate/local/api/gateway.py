"""AWS as far as mlflow-fargate uses it, on this machine: a list of handlers, of which the first that responds is used.

    exec sessions      → ExecSessions      the local session-manager-plugin, which proves with a token who it is
    S3                 → S3App             objects on disk; checks signatures itself, in S3's words
    the signature      → signature.py      nothing below sees a request that was not signed with the keys
    moto's own API     → refused           it would reset moto, or show what it holds
    ECS, ECR, ELB      → EcsApi with the engine that runs tasks, EcrApi with the local registry, ElbApi
    everything else    → moto              IAM, EC2, CloudWatch Logs, Secrets Manager, task definitions …

The only module that imports moto. The engine calls moto within the process, around the gateway (moto_client). moto
keeps its state in module globals, so one Gateway at a time lives in a process; a new one begins empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
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
from mlflow_fargate.local.container.runner import TaskRunner
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

_Environ = dict[str, Any]
_Handler = Callable[[_Environ], WsgiApp | None]  # None: the next handler's turn
_SCOPE = "mlflow_fargate.scope"  # in a request's environ, what it is signed for, once that was verified


class Gateway:
    """A WSGI application that responds as AWS in `region` to those who sign with `keys`.

    `registry` and `load_balancer` have been started: their addresses are in responses. Tasks run, by `runner`, between
    start() and stop(). `minute_seconds` is how long a minute of a bake time lasts.
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
        self._engine = Engine(self._store, aws, runner, routes=routes, minute_seconds=minute_seconds)
        self._sessions = ExecSessions(keys)
        address = f"127.0.0.1:{load_balancer.port}"
        self._apis: dict[str, Callable[[AwsRequest], Response]] = {
            "ecs": EcsApi(self._engine, aws, self._forward, self._sessions),
            "ecr": EcrApi(registry, DEFAULT_ACCOUNT_ID, aws, self._forward),
            "elasticloadbalancing": ElbApi(address, self._store, aws, self._forward, routes.listeners_changed),
        }
        self._handlers: tuple[_Handler, ...] = (
            self._follow_exec_session,
            self._serve_s3,
            self._check_signature,
            _refuse_api_of_moto,
            self._serve_api,
            self._serve_moto,
        )

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

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._respond(environ)(environ, start_response)

    def _respond(self, environ: _Environ) -> WsgiApp:
        try:
            return next(found for handler in self._handlers if (found := handler(environ)) is not None)
        except Exception as error:
            refusal = _as_refusal(error, f"{environ.get('HTTP_X_AMZ_TARGET', '')} {environ.get('PATH_INFO', '')}")
            return error_response(refusal, speaks_json="HTTP_X_AMZ_TARGET" in environ)

    # The handlers

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
        """moto's response to a request that one of the APIs has read."""
        return self._serve_moto(request.as_environ())


def _refuse_api_of_moto(environ: _Environ) -> None:
    if _is_of_moto(environ):
        raise Refusal("UnknownOperationException", "AWS has nothing at this address; call one of its services.", 404)


def _as_refusal(error: Exception, called: str) -> Refusal:
    """What AWS would say; an error that is a bug, here or in moto, is logged."""
    match error:
        case Refusal():
            return error
        case SignatureRefused():
            return Refusal(error.code, error.message, 403)
        case ClientError():
            said = error.response["Error"]
            return Refusal(said.get("Code", "ClientException"), said.get("Message", ""))
        case NotImplementedError():
            # moto's way of saying so would be a 500, which clients retry.
            return Refusal("UnknownOperationException", f"The local stack does not play this: {error}")
    logger.error("%s failed", called, exc_info=error)
    return Refusal("InternalFailure", "The local stack failed to answer; its log tells why.", 500)


def _is_call(environ: _Environ) -> bool:
    """Whether an unsigned request looks like a call to another service than S3, and is refused in such words."""
    is_form = environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded")
    return "HTTP_X_AMZ_TARGET" in environ or is_form or _is_of_moto(environ)


def _is_of_moto(environ: _Environ) -> bool:
    """Addresses at which moto responds by itself: to reset it, to read and to seed what it holds."""
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
