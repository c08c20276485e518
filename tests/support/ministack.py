"""MiniStack, an emulator of AWS that this project did not write: another reading of AWS's documents than its own.

Its version is pinned, in an environment of its own because it pins botocore. It runs tasks in podman's containers,
through podman's Docker-compatible socket. Its load balancer and its registry have the names that AWS would give them; a
proxy leads these names to it. Services that it lacks (`MISSING`) are moto's. It checks each request against the
policies of the user that signed it.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import requests
import uv
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from filelock import FileLock

from support.serving_process import stop_group

VERSION = "1.5.33"
ACCOUNT = "123456789012"  # moto's account as well
REGION = "us-east-1"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ROOT_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# Services that only moto has, as botocore names their variables (AWS_ENDPOINT_URL_…).
MISSING = ("APPLICATION_AUTO_SCALING", "SERVICE_QUOTAS")
_FOLDER = Path(__file__).resolve().parents[2] / "build" / f"ministack-{VERSION}"


@dataclass(frozen=True)
class MiniStack:
    """A running MiniStack. `environment`: variables for AWS's clients and the plugin, without keys."""

    url: str
    environment: Mapping[str, str]
    list_containers: Callable[[], list[str]]  # of tasks, running or not

    def client(self, service: str) -> Any:
        """Returns the root user's boto3 client."""
        session = boto3.Session("test", "test", region_name=REGION)
        return session.client(service, endpoint_url=self.url)

    def user(self, name: str, policies: Mapping[str, str]) -> dict[str, str]:
        """Creates a user with these managed policies (name → document); returns the variables with its keys."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        for policy, document in policies.items():
            arn = iam.create_policy(PolicyName=policy, PolicyDocument=document)["Policy"]["Arn"]
            iam.attach_user_policy(UserName=name, PolicyArn=arn)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@contextmanager
def running_ministack(folder: Path, holder_image: str, moto_url: str) -> Iterator[MiniStack]:
    """Runs it, with files in `folder`, and stops it and its containers; skips where it or podman does not work.

    `holder_image` is an image with python3 at a registry on this machine.
    """
    program = _install() / "bin" / "ministack"
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as parts:
        podman = parts.enter_context(_Podman.serving(folder, port, holder_image))
        holder = podman.hold_network()
        environment = {
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true",
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "MINISTACK_DOCKER_TIMEOUT": "300",
            "DOCKER_HOST": podman.socket,
            "HOSTNAME": holder,
            "TMPDIR": str(folder),
            **ROOT_KEYS,
        }
        log = folder / "ministack.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program],
                env={**os.environ, **environment},
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        parts.callback(stop_group, process, 20)
        _wait_until_up(url, process, log)
        proxy, certificate = parts.enter_context(_proxy(folder, port))
        yield MiniStack(
            url,
            {
                "AWS_ENDPOINT_URL": url,
                **{f"AWS_ENDPOINT_URL_{service}": moto_url for service in MISSING},
                "AWS_DEFAULT_REGION": REGION,
                "AWS_REGION": REGION,
                "HTTP_PROXY": proxy,
                "HTTPS_PROXY": proxy,
                "NO_PROXY": "127.0.0.1,localhost",
                "REQUESTS_CA_BUNDLE": str(certificate),
            },
            podman.list_tasks,
        )


def _install() -> Path:
    """Returns the environment with MiniStack, made once for a checkout; skips if it cannot be installed."""
    _FOLDER.parent.mkdir(exist_ok=True)
    with FileLock(f"{_FOLDER}.lock"):
        if not (_FOLDER / ".ready").exists():
            shutil.rmtree(_FOLDER, ignore_errors=True)
            python = str(_FOLDER / "bin" / "python")
            for words in (
                ["venv", "--python", sys.executable, str(_FOLDER)],
                ["pip", "install", "--python", python, f"ministack=={VERSION}", "docker>=7,<8"],
            ):
                command = [uv.find_uv_bin(), "-q", *words]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"ministack {VERSION} could not be installed: {done.stderr[-300:]}")
            (_FOLDER / ".ready").touch()
    return _FOLDER


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/_ministack/health", timeout=2).ok:
                return
        time.sleep(0.3)
    raise RuntimeError(f"MiniStack did not start:\n{log.read_text()[-3000:]}")


@dataclass(frozen=True)
class _Podman:
    """Podman's service, with what MiniStack's way of calling it needs on any machine.

    MiniStack passes no limits, and podman's API then asks for more open files than a machine may allow, so the runtime
    leaves the machine's own. It would name the host `host-gateway`, which podman before 4.7 does not know, unless it
    finds itself in a container; one that only waits is presented as such, and its network is the tasks'.
    """

    folder: Path
    socket: str
    label: str
    image: str
    environment: Mapping[str, str]

    @classmethod
    @contextmanager
    def serving(cls, folder: Path, port: int, image: str) -> Iterator[_Podman]:
        program = shutil.which("podman")
        runtime = shutil.which("runc") or shutil.which("crun")
        if program is None or runtime is None or os.geteuid():
            pytest.skip("MiniStack's tasks need podman, and runc or crun, and root")
        wrapper = folder / "runtime"
        wrapper.write_text(_RUNTIME.format(python=sys.executable, runtime=runtime))
        wrapper.chmod(0o755)
        (folder / "containers.conf").write_text(_CONTAINERS.format(name=Path(runtime).name, path=wrapper))
        (folder / "registries.conf").write_text(_REGISTRIES.format(name=REGISTRY, port=port))
        environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        }
        address = f"unix://{folder}/podman.sock"
        with (folder / "podman.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "system", "service", "--time=0", address],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        podman = cls(folder, address, f"ministack.test={folder.name}-{port}", image, environment)
        try:
            yield podman
        finally:
            podman.remove_all()
            stop_group(process, 20)

    def hold_network(self) -> str:
        """Runs a container that only waits, on podman's network; returns its ID. Skips if it does not run."""
        wait = "import signal; signal.pause()"
        words = ["run", "--detach", "--tls-verify=false", "--network=podman", f"--label={self.label}", self.image]
        try:
            return self._call(*words, "python3", "-c", wait).strip()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"podman runs no container with a network here: {error.stderr[-500:]}")

    def list_tasks(self) -> list[str]:
        """Returns the IDs of the tasks' containers, running or not."""
        instance = f"{socket.gethostname()}:{self.label.rpartition('-')[2]}"
        return self._call("ps", "--all", "--quiet", f"--filter=label=ministack.instance={instance}").split()

    def remove_all(self) -> None:
        """Removes every container of this MiniStack, and the images that were pulled for them."""
        waiting = self._call("ps", "--all", "--quiet", f"--filter=label={self.label}").split()
        for container in (*self.list_tasks(), *waiting):
            self._call("rm", "--force", "--time=0", container)
        for reference in (f"{REGISTRY}/*/*", self.image):
            for image in set(self._call("images", "--quiet", f"--filter=reference={reference}").split()):
                self._call("rmi", "--force", image)

    def _call(self, *words: str) -> str:
        done = subprocess.run(
            ["podman", *words], env=self.environment, capture_output=True, text=True, check=True, timeout=300
        )
        return done.stdout


_RUNTIME = """\
#!{python}
import json, os, sys
if "--bundle" in sys.argv:
    path = os.path.join(sys.argv[sys.argv.index("--bundle") + 1], "config.json")
    config = json.load(open(path))
    config["process"].pop("rlimits", None)
    json.dump(config, open(path, "w"))
os.execv("{runtime}", ["{runtime}", *sys.argv[1:]])
"""
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "{name}"
[engine.runtimes]
{name} = ["{path}"]
"""
_REGISTRIES = """\
[[registry]]
prefix = "{name}"
location = "127.0.0.1:{port}"
insecure = true
"""


@contextmanager
def _proxy(folder: Path, port: int) -> Iterator[tuple[str, Path]]:
    """Yields the URL of a proxy, which leads HTTP and the registry to MiniStack, and the registry's certificate."""
    certificate, key = _certificate(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            host, _, number = self.path.partition(":")
            is_registry = host == REGISTRY
            place = ("127.0.0.1", port) if is_registry else (host, int(number))
            with contextlib.suppress(OSError), socket.create_connection(place) as there:
                here = tls.wrap_socket(self.connection, server_side=True) if is_registry else self.connection
                _relay(here, there)
                here.close()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = parts._replace(scheme="", netloc="").geturl()
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as there:
                there.request(self.command, path, body, {**headers, "Host": parts.netloc})
                answer = there.getresponse()
                content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", certificate
        finally:
            server.shutdown()
            thread.join()


def _relay(here: socket.socket, there: socket.socket) -> None:
    """Copies in both directions until one side ends; in one thread, because TLS's sockets belong to one."""
    while True:
        has_more = isinstance(here, ssl.SSLSocket) and here.pending()
        for source in [here] if has_more else select.select([here, there], [], [])[0]:
            data = source.recv(1 << 16)
            if not data:
                return
            (there if source is here else here).sendall(data)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Writes a certificate for ECR's host and its key; returns their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ministack")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(REGISTRY)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, secret
