"""The local stack's AWS in this process: gateway, registry, load balancer and S3, each a real server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.local.api.gateway import Gateway
from mlflow_fargate.local.container.image_store import ImageStore
from mlflow_fargate.local.container.runner import ProcessRunner
from mlflow_fargate.local.container.task_runner import TaskRunner
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.wsgi_server import WsgiServer

KEYS = Keys("local", "local")


@dataclass(frozen=True)
class RunningAws:
    url: str
    gateway: Gateway
    load_balancer: LoadBalancer


@contextmanager
def running_aws(
    folder: Path,
    *,
    keys: Keys = KEYS,
    registry: LocalRegistry | None = None,
    load_balancer: LoadBalancer | None = None,
    runner: TaskRunner | None = None,
    minute_seconds: float = 60.0,
) -> Iterator[RunningAws]:
    """Runs AWS in us-east-1 for clients with `keys`, with files in `folder` (s3, registry, tasks), and stops it.

    A given `registry` is already running, and is not stopped.
    """
    with ExitStack() as parts:
        if registry is None:
            registry = parts.enter_context(LocalRegistry(folder / "registry", password=keys.registry_password))
        if runner is None:
            runner = ProcessRunner(ImageStore(registry.store, registry.address, folder / "tasks"), folder / "tasks")
        balancer = parts.enter_context(load_balancer or LoadBalancer())
        gateway = Gateway(
            region="us-east-1",
            keys=keys,
            registry=registry,
            s3=parts.enter_context(closing(S3App(folder / "s3", keys=keys))),
            load_balancer=balancer,
            runner=runner,
            minute_seconds=minute_seconds,
        )
        server = parts.enter_context(WsgiServer(gateway, access_key_id=keys.access_key_id))
        parts.callback(gateway.stop)  # tasks end while AWS still responds
        gateway.start()
        yield RunningAws(server.url, gateway, balancer)
