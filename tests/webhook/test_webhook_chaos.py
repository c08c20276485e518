"""No promotion is missed while the service is killed, deliveries are lost, and both sides return 5xx.

Real: `mlflow server` with its database, and the service as a process of its own, as `mlflow-fargate webhook serve`
starts it, killed with SIGKILL. Played: the cloud, an HTTP server here that the service reaches through a plugin of
`mlflow.deployments` (chaos/), whose updates take a while and go on when the client is dead; the deliveries, which are
signed as MLflow signs them; and a proxy before MLflow that fails in spells.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient

from support.mlflow_server import MlflowServer

SECRET = "chaos"
VERSIONS = 5


class Cloud:
    """Deployments and their history; `is_failing` makes it and the registry's proxy return 5xx."""

    def __init__(self, registry_uri: str) -> None:
        self.registry_uri = registry_uri
        self.deployments: dict[str, dict[str, Any]] = {}
        self.ran: list[tuple[str, str]] = []
        self.refused = 0
        self.is_failing = False
        self.lock = threading.Lock()

    def answer(self, verb: str, told: dict[str, Any]) -> tuple[int, Any]:
        if verb == "list":
            with self.lock:
                return 200, list(self.deployments.values())
        model, _, version = told["model_uri"].removeprefix("models:/").rpartition("/")
        time.sleep(random.uniform(0.05, 0.4))
        with self.lock:
            if (verb == "create") == (told["name"] in self.deployments):
                return 409, {}
            self.ran.append((model, version))
            self.deployments[told["name"]] = {
                "name": told["name"], "model_name": model, "model_version": version,
                "follow": told["config"]["follow"], "state": "COMPLETED",
            }  # fmt: skip
        # As if the connection broke after AWS received the call.
        return (503, {}) if self.is_failing else (200, {})


def make_handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self._fails():
                return
            if self.path.startswith("/cloud/"):
                status, told = cloud.answer(self.path.rpartition("/")[2], json.loads(body))
                self._send(status, json.dumps(told).encode())
            else:
                self._forward("POST", body)

        def do_GET(self) -> None:
            if not self._fails():
                self._forward("GET", b"")

        def _fails(self) -> bool:
            if not (cloud.is_failing and random.random() < 0.8):
                return False
            cloud.refused += 1
            self._send(random.choice((500, 502, 503)), b"")
            return True

        def _forward(self, verb: str, body: bytes) -> None:
            kind = {"Content-Type": "application/json"}
            answer = requests.request(verb, cloud.registry_uri + self.path, data=body, headers=kind, timeout=30)
            self._send(answer.status_code, answer.content)

        def _send(self, status: int, body: bytes) -> None:
            with contextlib.suppress(ConnectionError):  # the service was killed in the meantime
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


class Service:
    """`mlflow-fargate webhook serve` as a process; `url` is known once it has logged its address."""

    def __init__(self, address: str, folder: Path) -> None:
        plugin = folder / "chaos_deployments-0.1.dist-info"
        plugin.mkdir(exist_ok=True)
        (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-deployments\nVersion: 0.1\n")
        (plugin / "entry_points.txt").write_text("[mlflow.deployments]\nchaos = chaos_deployments\n")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parent / 'chaos'}",
            "MLFLOW_TRACKING_URI": f"http://{address}",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "FARGATE_WEBHOOK_SECRET": SECRET,
            "FARGATE_WEBHOOK_MODELS": '{"chaos-*": {stage: Production}}',
            "FARGATE_WEBHOOK_RETRY_SECONDS": "1",
        }
        serve = ["webhook", "serve", "--target", f"chaos://{address}", "--port", "0", "--poll-seconds", "1"]
        self._command = [str(Path(sys.executable).parent / "mlflow-fargate"), *serve]
        self._log = folder / "service.log"
        self.kills = 0
        self.url = ""
        self.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.kills += 1
        self.url = ""

    def start(self) -> None:
        began = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while "service on " not in (said := self._log.read_bytes()[began:].decode()):
            assert self._process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.1)
        self.url = said.partition("service on ")[2].split()[0]


@contextlib.contextmanager
def chaos(mlflow_uri: str, folder: Path) -> Iterator[tuple[Cloud, Service]]:
    cloud = Cloud(mlflow_uri)
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(cloud))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service = Service(f"127.0.0.1:{server.server_port}", folder)
    try:
        yield cloud, service
    finally:
        service.kill()
        server.shutdown()
        server.server_close()


def deliver(service: Service, model: str, delivery_id: str) -> None:
    body = json.dumps({"entity": "model_version_tag", "action": "set", "data": {"name": model}})
    moment = str(int(time.time()))
    made = hmac.new(SECRET.encode(), f"{delivery_id}.{moment}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "X-MLflow-Signature": f"v1,{base64.b64encode(made).decode()}",
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": moment,
    }
    with contextlib.suppress(requests.RequestException):  # it is being killed
        requests.post(f"{service.url}/events", data=body, headers=headers, timeout=5)


def promote_at_random(
    client: MlflowClient, cloud: Cloud, service: Service, *, models: list[str], promotions: int, kill_every: int
) -> set[tuple[str, str]]:
    """Returns every (model, version) that was ever in Production. Promotes about two versions per second.

    The service is down while the last two of every `kill_every` versions are promoted.
    """
    held: set[tuple[str, str]] = set()
    waiting: list[tuple[str, str]] = []
    for number in range(promotions):
        cloud.is_failing = number % 10 in (4, 5, 6)
        model, version = random.choice(models), str(random.randint(1, VERSIONS))
        client.transition_model_version_stage(model, version, "Production", archive_existing_versions=True)
        held.add((model, version))
        waiting += [(model, f"delivery-{number}")] * random.choices((0, 1, 2), (0.3, 0.4, 0.3))[0]
        random.shuffle(waiting)
        while len(waiting) > 3:
            deliver(service, *waiting.pop())
        time.sleep(random.uniform(0.1, 0.6))
        if number % kill_every == kill_every - 3:
            service.kill()
        elif number % kill_every == kill_every - 1:
            service.start()
    cloud.is_failing = False
    return held


def run_chaos(mlflow_uri: str, folder: Path, *, models: int, promotions: int, kill_every: int) -> None:
    client = MlflowClient(mlflow_uri)
    names = [f"chaos-{number}" for number in range(models)]
    for name in names:
        client.create_registered_model(name)
        for _ in range(VERSIONS):
            client.create_model_version(name, "s3://nowhere/model")
    try:
        with chaos(mlflow_uri, folder) as (cloud, service):
            held = promote_at_random(client, cloud, service, models=names, promotions=promotions, kill_every=kill_every)
            found = (client.get_latest_versions(name, ["Production"]) for name in names)
            wanted = {one.name: str(one.version) for latest in found for one in latest}
            deadline = time.monotonic() + 180
            while deployed(cloud) != wanted and time.monotonic() < deadline:
                time.sleep(0.5)

            assert deployed(cloud) == wanted
            assert set(cloud.ran) <= held
            assert service.kills == promotions // kill_every and cloud.refused > 0
            settled = len(cloud.ran)
            time.sleep(3)
            assert len(cloud.ran) == settled, "it goes on deploying what is deployed"
    finally:
        for name in names:
            client.delete_registered_model(name)


def deployed(cloud: Cloud) -> dict[str, str]:
    with cloud.lock:
        return {item["model_name"]: item["model_version"] for item in cloud.deployments.values()}


@pytest.mark.slow
def test_promotions_through_a_kill_and_bursts_of_errors_converge_to_the_registry(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    run_chaos(mlflow_server.uri, tmp_path, models=4, promotions=20, kill_every=9)


@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
def test_two_hundred_promotions_of_twenty_models_through_kills_and_bursts_of_errors(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    run_chaos(mlflow_server.uri, tmp_path, models=20, promotions=200, kill_every=8)
