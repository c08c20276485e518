"""Mistakes of the first hour: each one is actually made, and its message is in docs/troubleshooting.md.

Each section of the page is one mistake: a heading, a `console` block with the command, a `text` block with its output.
The functions below make the mistakes, in the order of the page; their docstrings are the headings. Failing rollouts run
on the local stack's AWS, with ECS's messages.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
from click.testing import CliRunner
from moto import mock_aws

from mlflow_fargate.cli import main
from mlflow_fargate.errors import DiskFull, RolloutFailed
from mlflow_fargate.local.api.gateway import open_default_vpc
from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec, ExecSpec, TaskFailedToStart
from mlflow_fargate.local.container.task_runner import OnLine, StartedTask
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher import Publisher
from mlflow_fargate.target import parse_target
from support.deployer import create, make_deployer
from support.local_aws import running_aws
from support.registry import PushImage
from support.tracking_uri import use_tracking_uri

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
CREATE = "plan -t fargate:/us-east-2 --name churn"  # makes the same checks as create, but changes nothing
MLMODEL = """
flavors:
  python_function: {loader_module: mlflow.sklearn, python_version: PYTHON}
  sklearn: {}
"""


class Bench:
    """The setup for the mistakes: a folder, an environment, a moto account, and the command."""

    def __init__(self, folder: Path, registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.registry = registry  # a database with version 1 of `churn`, without a stage
        self.monkeypatch = monkeypatch

    def model(self, *, python: str = "3.11.4", requirements: str | None = "mlflow==3.1.0\nscikit-learn==1.5.0") -> str:
        """Creates a folder with a scikit-learn model, as MLflow logs it, and returns its name."""
        model = self.folder / "model"
        model.mkdir()
        (model / "MLmodel").write_text(MLMODEL.replace("PYTHON", python))
        (model / "python_env.yaml").write_text(f"python: {python}\n")
        (model / "model.pkl").write_bytes(b"never loaded")
        if requirements is not None:
            (model / "requirements.txt").write_text(requirements)
        return "model"

    def run(self, command: str) -> str:
        """Runs `mlflow-fargate COMMAND`, which must fail, and returns its output."""
        done = CliRunner().invoke(main, command.split(), prog_name="mlflow-fargate")
        assert done.exit_code != 0, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
        return done.stderr

    def refuse(self, operation: str, code: str, message: str) -> None:
        """Makes AWS refuse ECS's `operation`, below boto3."""
        original = boto3.Session.__init__

        def answer(request: Any, **_: Any) -> Any:
            from botocore.awsrequest import AWSResponse

            body = json.dumps({"__type": code, "message": message}).encode()
            raw = type("Raw", (), {"stream": lambda self, *_, **__: iter([body])})()
            return AWSResponse(request.url, 400, {"Content-Type": "application/x-amz-json-1.1"}, raw)

        def init(session: boto3.Session, *arguments: Any, **options: Any) -> None:
            original(session, *arguments, **options)
            session.events.register_first(f"before-send.ecs.{operation}", answer)

        self.monkeypatch.setattr(boto3.Session, "__init__", init)


def no_credentials(bench: Bench) -> str:
    """No AWS credentials"""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        bench.monkeypatch.delenv(name)
    return bench.run(f"{CREATE} -m models:/churn/Production")


def expired_credentials(bench: Bench) -> str:
    """Expired credentials"""
    bench.refuse("*", "ExpiredTokenException", "The security token included in the request is expired")
    return bench.run(f"{CREATE} -m models:/churn/Production")


def no_region(bench: Bench) -> str:
    """No region"""
    bench.monkeypatch.delenv("AWS_DEFAULT_REGION")
    return bench.run("status -t fargate --name churn")


def no_such_region(bench: Bench) -> str:
    """A region that does not exist"""
    from botocore.exceptions import EndpointConnectionError

    def fail(request: Any, **_: Any) -> None:
        raise EndpointConnectionError(endpoint_url=request.url)

    original = boto3.Session.__init__

    def init(session: boto3.Session, *arguments: Any, **options: Any) -> None:
        original(session, *arguments, **options)
        session.events.register_first("before-send.ecs", fail)

    bench.monkeypatch.setattr(boto3.Session, "__init__", init)
    bench.monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)  # between its ten attempts
    return bench.run("status -t fargate:/us-east-7 --name churn")


def wrong_region(bench: Bench) -> str:
    """The deployment is in another region"""
    return bench.run("status -t fargate:/us-west-2 --name churn")


def no_permission(bench: Bench) -> str:
    """No permission"""
    said = (
        "User: arn:aws:iam::123456789012:user/ana is not authorized to perform: ecs:DescribeServices on resource: "
        "arn:aws:ecs:us-east-2:123456789012:service/mlflow-fargate-default/churn because no identity-based policy "
        "allows the ecs:DescribeServices action"
    )
    bench.refuse("DescribeServices", "AccessDeniedException", said)
    return bench.run("status -t fargate:/us-east-2 --name churn")


def no_default_vpc(bench: Bench) -> str:
    """No default VPC"""
    ec2 = boto3.client("ec2", "us-east-2")
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for vpc in ec2.describe_vpcs()["Vpcs"]:
        ec2.delete_vpc(VpcId=vpc["VpcId"])
    return bench.run(f"{CREATE} -m {bench.model()}")


def invalid_host_header(bench: Bench) -> str:
    """The tracking server returns 403 "Invalid Host header\""""
    with answering(403, b"Invalid Host header - possible DNS rebinding attack detected") as url:
        mlflow.set_tracking_uri(url)
        return bench.run(f"{CREATE} -m models:/churn/Production").replace(
            url.removeprefix("http://"), "mlflow.example.com"
        )


def no_tracking_server(bench: Bench) -> str:
    """The tracking server does not respond"""
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    said = bench.run(f"{CREATE} -m models:/churn/Production")
    # The text between is urllib3's, with addresses of its objects.
    shown = r"\g<1>127.0.0.1:5000\g<2> …\n  hint"
    return re.sub(
        r"(?s)(MLflow at http://)127\.0\.0\.1:\d+( could not be reached: API request).*?\n  hint", shown, said
    )


def misspelt_model(bench: Bench) -> str:
    """No registered model of this name"""
    mlflow.set_tracking_uri(bench.registry)
    return bench.run(f"{CREATE} -m models:/chrun/Production")


def nothing_in_production(bench: Bench) -> str:
    """No version in Production"""
    mlflow.set_tracking_uri(bench.registry)
    return bench.run(f"{CREATE} -m models:/churn/Production")


def not_a_model(bench: Bench) -> str:
    """A folder that is not a model"""
    bench.model()
    return bench.run(f"{CREATE} -m .").replace(str(bench.folder), "/home/ana/project")


def no_requirements(bench: Bench) -> str:
    """A model without requirements"""
    return bench.run(f"{CREATE} -m {bench.model(requirements=None)}")


def old_python_model(bench: Bench) -> str:
    """A model logged with an old Python"""
    return bench.run(f"{CREATE} -m {bench.model(python='3.8.18')}")


def wrong_flavor(bench: Bench) -> str:
    """A flavor that the model does not have"""
    return bench.run(f"{CREATE} -m {bench.model()} -f xgboost")


def unknown_flavor(bench: Bench) -> str:
    """A flavor that MLflow does not know"""
    return bench.run(f"{CREATE} -m {bench.model()} -f sklern")


def misspelt_option(bench: Bench) -> str:
    """A typo in an option"""
    return bench.run(f"{CREATE} -m {bench.model()} -C cpus=2048")


def impossible_size(bench: Bench) -> str:
    """CPU and memory that do not match"""
    return bench.run(f"{CREATE} -m {bench.model()} -C cpu=2048 -C memory=1024")


def misspelt_verb(bench: Bench) -> str:
    """A typo in a command"""
    return bench.run("statis -t fargate:/us-east-2 --name churn")


def bad_name(bench: Bench) -> str:
    """An invalid deployment name"""
    return bench.run(f"plan -t fargate:/us-east-2 --name churn.v2 -m {bench.model()}")


def no_labels_file(bench: Bench) -> str:
    """A missing labels file"""
    return bench.run(f"{CREATE} -m {bench.model()} -C labels=flowers.json")


def disk_full(bench: Bench) -> str:
    """The disk is full"""

    def build(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/mlflow-fargate-x/bentos")

    bench.monkeypatch.setattr(Publisher, "_build", build)
    bench.monkeypatch.setattr("mlflow_fargate.publisher.repository.ImageRepository.find", lambda *_: None)
    with pytest.raises(DiskFull) as told:
        publish(bench)
    return f"Error: {told.value.format_message()}\n"


def port_in_use(bench: Bench) -> str:
    """The port is in use"""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bench.monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.registry)
        said = bench.run(f"webhook serve -t fargate:/us-east-2 --port {port}")
    return said.replace(f":{port}", ":8080")


def stack_not_running(bench: Bench) -> str:
    """The local stack is not running"""
    return bench.run("status -t fargate:/local --name churn")


def extra_missing(bench: Bench) -> str:
    """An extra is not installed"""
    for module in ("mlflow_fargate.local.stack", "mlflow_fargate.local.running"):
        bench.monkeypatch.delitem(sys.modules, module, raising=False)
        bench.monkeypatch.delattr(module, raising=False)
    bench.monkeypatch.setitem(sys.modules, "psutil", None)
    return bench.run("local up")


def old_python(bench: Bench) -> str:
    """Python is too old"""
    python = bench.folder / "python3.9"
    python.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])' \"$2\"\n"
    )
    python.chmod(0o755)
    made = subprocess.run(
        ["make", "-C", str(ROOT), "setup", f"PYTHON={python}", f"VENV={bench.folder}/venv"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode != 0
    return made.stderr.splitlines(keepends=True)[0]


MISTAKES: tuple[Callable[[Bench], str], ...] = (
    no_credentials, expired_credentials, no_region, no_such_region, wrong_region, no_permission, no_default_vpc,
    invalid_host_header, no_tracking_server, misspelt_model, nothing_in_production,
    not_a_model, no_requirements, old_python_model, wrong_flavor, unknown_flavor,
    misspelt_option, impossible_size, misspelt_verb, bad_name, no_labels_file,
    disk_full, port_in_use, stack_not_running, extra_missing, old_python,
)  # fmt: skip


@pytest.fixture(scope="module")
def model_registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("churn")
    client.create_model_version("churn", str(folder))
    return uri


@pytest.fixture
def bench(tmp_path: Path, model_registry: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-2")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("MLFLOW_FARGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mlflow_fargate.progress.PlainProgress._write", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with use_tracking_uri(), mock_aws(config={"core": {"mock_credentials": False}}):
        open_default_vpc(boto3.client("ec2"))
        yield Bench(tmp_path, model_registry, monkeypatch)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_prints_the_message_on_the_page(mistake: Callable[[Bench], str], bench: Bench) -> None:
    said = mistake(bench)

    assert said == sections().get(title(mistake)), f"\n## {title(mistake)}\n\n```text\n{said}```"


@dataclass
class RefusingRunner:
    """A task runner that cannot start tasks, with Fargate's reason."""

    reason: str
    runs_all_containers = False

    def pull(self, image: str) -> PulledImage:
        raise TaskFailedToStart(self.reason)

    def start(self, spec: ContainerSpec, on_line: OnLine) -> StartedTask:
        raise AssertionError("no image was pulled")

    def release(self, task_id: str) -> None:
        return

    def exec_spec(self, task_id: str, container: str, command: str, *, as_root: bool = True) -> ExecSpec | None:
        return None


# Heading → the reason that Fargate reports; None: the reason of a task that actually ends as ENDS says.
FAILED_ROLLOUTS = {
    "Too little memory": None,
    "Packages that a task lacks": None,
    "The image is too large": "CannotPullContainerError: failed to register layer: write /opt/app/libtorch_cuda.so: "
    "no space left on device",
    "The subnets have no route to ECR": "ResourceInitializationError: unable to pull secrets or registry auth: The "
    "task cannot pull registry auth from Amazon ECR: There is a connection issue between the task and Amazon ECR.",
}
ENDS = {
    "Too little memory": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    # As the service ends: tests/service_template/test_entry_point.py.
    "Packages that a task lacks": """
import os
print("Traceback …\\nModelLoadError: ModuleNotFoundError: No module named 'lightgbm'", flush=True)
os._exit(1)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize(("heading", "reason"), FAILED_ROLLOUTS.items(), ids=list(FAILED_ROLLOUTS))
def test_a_failed_rollout_prints_the_message_on_the_page(
    heading: str, reason: str | None, registry: LocalRegistry, push_image: PushImage, tmp_path: Path
) -> None:
    image = push_image({"opt/app/src/server.py": ENDS.get(heading, "")})
    with (
        running_aws(tmp_path, registry=registry, runner=RefusingRunner(reason) if reason else None) as aws,
        pytest.raises(RolloutFailed) as told,
    ):
        create(make_deployer(aws.url, image))
    said = re.sub(r"task [0-9a-f]{32}", "task 0c1d", f"Error: {told.value.format_message()}\n")

    assert said == sections().get(heading), f"\n## {heading}\n\n```text\n{said}```"


def test_each_message_contains_the_next_step() -> None:
    silent = [
        heading
        for heading, said in sections().items()
        if not re.search(r"hint: |Did you mean|set PYTHON=|Fargate offers", said)
    ]

    assert not silent


def test_the_page_has_exactly_one_section_for_each_mistake() -> None:
    assert sorted(sections()) == sorted([*FAILED_ROLLOUTS, *(title(mistake) for mistake in MISTAKES)])


def sections() -> dict[str, str]:
    """Returns heading → output of the command."""
    text = PAGE.read_text("utf-8") if PAGE.exists() else ""
    return dict(re.findall(r"^## (.+?)\n(?:(?!^## ).*\n)*?```text\n((?:.*\n)*?)```$", text, re.MULTILINE))


def title(mistake: Callable[[Bench], str]) -> str:
    return str(mistake.__doc__)


def publish(bench: Bench) -> None:
    from mlflow_fargate.aws.account import Account
    from mlflow_fargate.config import parse_config

    target = parse_target("fargate:/us-east-2")
    publisher = Publisher(target, Account(target), Path("/home/ana/.cache/mlflow-fargate"), RecordedProgress())
    publisher.publish("churn", publisher.resolve(bench.model(), None), parse_config(None))


class answering:
    """A server on loopback that sends the same response to every request; entering returns its URL."""

    def __init__(self, status: int, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
