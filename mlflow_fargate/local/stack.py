"""The local stack as a whole: starts its parts in order, records their addresses, stops them in reverse.

    registry · S3 · moto behind the gateway, with the engine that runs tasks · load balancer · MLflow · the page

One stack per cache directory: a lock prevents a second one from starting. All parts listen on free ports of loopback;
while it runs, the addresses and this run's keys are in `stack.json`, which only its owner can read. Images, S3 objects
and MLflow's runs stay on disk when it stops; moto's state (deployments, roles, log groups) does not, as `local down`
reports.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.api.exec_sessions import PLUGIN
from mlflow_fargate.local.api.gateway import ROLE_PATH, Gateway
from mlflow_fargate.local.container.container_engine import ContainerEngine, choose_engine
from mlflow_fargate.local.container.engine_runner import runner_for
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.page import PageApp
from mlflow_fargate.local.registry.base_image import seed_base_image
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.running import describe, environment
from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.tracking import BUCKET, TrackingServer
from mlflow_fargate.local.wsgi_server import WsgiServer
from mlflow_fargate.progress import Progress
from mlflow_fargate.target import local_state_file, process_start

REGION = "us-east-1"
_AWS_THREADS = 16
_PAGE_THREADS = 2


class LocalStack:
    """A running stack; `state` contains the addresses of its parts. A context manager: on exit it stops every part."""

    def __init__(
        self, directory: Path, progress: Progress, *, serve_artifacts: bool = False, engine: str = "process"
    ) -> None:
        self._directory = directory
        self._progress = progress
        self._serve_artifacts = serve_artifacts
        self._wanted_engine = engine
        self._state_file = local_state_file(directory.parent)
        self._keys = Keys.random()
        self._parts = contextlib.ExitStack()
        self.state: dict[str, Any] = {}

    def __enter__(self) -> LocalStack:
        _check_platform(sys.platform)
        try:
            self._start()
        except BaseException:
            self._parts.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._parts.close()

    def _start(self) -> None:
        folder, keys = self._directory, self._keys
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # models, runs and keys: hidden from other users of this machine
        self._parts.enter_context(_only_one(folder))
        self._progress.step("Starting AWS emulator, image registry and load balancer")
        choice = choose_engine(self._wanted_engine)
        registry = self._parts.enter_context(LocalRegistry(folder / "registry", password=keys.registry_password))
        has_base = seed_base_image(registry.store, self._progress) is not None
        balancer = self._parts.enter_context(LoadBalancer())
        aws = self._make_gateway(registry, balancer, choice.engine)
        server = self._parts.enter_context(WsgiServer(aws, threads=_AWS_THREADS, access_key_id=keys.access_key_id))
        self._parts.callback(aws.stop)  # tasks end while AWS still responds
        aws.start()
        tracking = self._start_tracking(server.url)
        pages = PageApp(aws.services, lambda: self.state, aws.logs_client, tags=aws.tags_of)
        page = WsgiServer(pages, threads=_PAGE_THREADS)
        self._parts.enter_context(page)
        addresses = {
            "aws_endpoint_url": server.url,
            "page_url": f"{page.url}/",
            "registry": registry.address,
            "registry_mirrors": {"public.ecr.aws": registry.address} if has_base else {},
            "mlflow_tracking_uri": tracking.url,
            "load_balancer_url": balancer.url,
            "engine": choice.engine.name if choice.engine else "process",
            "tasks": choice.description,
        }
        self.state = {**self._own_state(), **addresses}
        self._parts.enter_context(_written(self._state_file, self.state))

    def _make_gateway(self, registry: LocalRegistry, balancer: LoadBalancer, engine: ContainerEngine | None) -> Gateway:
        folder, keys = self._directory, self._keys
        s3 = self._parts.enter_context(contextlib.closing(S3App(folder / "s3", keys=keys)))
        s3.store.create_bucket(BUCKET)
        runner = self._parts.enter_context(runner_for(engine, folder / "tasks", registry, self._environment_of_roles))
        return Gateway(region=REGION, keys=keys, registry=registry, s3=s3, load_balancer=balancer, runner=runner)

    def _environment_of_roles(self) -> dict[str, str]:
        """Returns the variables of a task with a role: the local AWS, its credentials, and the local stack."""
        ours = environment(self.state).items()
        passed = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "MLFLOW_S3_ENDPOINT_URL")
        return {
            **{name: value for name, value in ours if name in passed},
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.state['aws_endpoint_url']}{ROLE_PATH}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": self._keys.role_token,
            "MLFLOW_FARGATE_CACHE": str(self._directory.parent),
        }

    def _own_state(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "region": REGION,
            "access_key_id": self._keys.access_key_id,
            "secret_access_key": self._keys.secret_access_key,
            "session_manager_plugin": [sys.executable, "-I", "-S", str(PLUGIN), str(self._state_file)],
            "started_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _start_tracking(self, aws_url: str) -> TrackingServer:
        self._progress.step("Starting MLflow tracking server")
        environment = {
            "MLFLOW_S3_ENDPOINT_URL": aws_url,
            "AWS_ACCESS_KEY_ID": self._keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self._keys.secret_access_key,
            "AWS_DEFAULT_REGION": REGION,
        }
        tracking = TrackingServer(self._directory / "mlflow", environment, serve_artifacts=self._serve_artifacts)
        self._parts.enter_context(tracking)
        tracking.start(self._progress)
        return tracking


def run(cache: Path, progress: Progress, *, serve_artifacts: bool = False, engine: str = "process") -> None:
    """Runs the stack in this process until SIGTERM or Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with LocalStack(cache / "local", progress, serve_artifacts=serve_artifacts, engine=engine) as stack:
        progress.step("Ready; press Ctrl-C to stop")
        progress.note(describe(stack.state))
        stop.wait()
        progress.step("Stopping")
    progress.step("Stopped (images, models and runs are kept, deployments are not)")


def _check_platform(system: str) -> None:
    if not system.startswith("linux"):
        raise LocalStackError(
            f"The local stack runs on Linux only, and this machine's system is '{system}'.",
            hint="run it on Linux, in a Linux container or in WSL",
        )


@contextlib.contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    lock = FileLock(directory / "stack.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LocalStackError(
            f"A local stack is already running or starting ({directory}).", hint="mlflow-fargate local status"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _written(path: Path, state: Mapping[str, Any]) -> Iterator[None]:
    """Keeps the complete file in place while the stack runs, and deletes it afterwards."""
    atomic_files.write(path, json.dumps(state, indent=2), mode=0o600)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
