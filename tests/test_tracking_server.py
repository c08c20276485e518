"""The tracking server's template, created on the local stack's AWS; its instance, started; a model, deployed from it.

CloudFormation is moto's, which leaves out secrets, bucket policies and more: test_infrastructure.py checks these in the
template itself.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import requests

from support.instance import Instance, needs_debootstrap, new_instance
from support.local_aws import running_aws
from support.templates import FOLDER, NETWORK, TRACKING_SERVER
from support.tracking_uri import use_tracking_uri

KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
PAGE = FOLDER.parent / "docs" / "from-an-empty-account.md"
PREVIOUS_MINOR = "3.16.0"
ADMIN = ("admin", "a password' $(touch /owned) \"100%\\")  # support/shims/aws; as somebody could choose one later
CI = {
    "GitHubRepository": "acme/churn:ref:refs/heads/main",
    "GitHubProviderArn": "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com",
}


@dataclass(frozen=True)
class Cloud:
    """An AWS whose CloudFormation creates the templates."""

    url: str

    def client(self, service: str) -> Any:
        return boto3.Session("local", "local", region_name="us-east-1").client(service, endpoint_url=self.url)

    def deploy(self, name: str, template: Path, **parameters: str) -> dict[str, str]:
        """Creates or changes a stack; returns its outputs."""
        cloudformation = self.client("cloudformation")
        names = {stack["StackName"] for stack in cloudformation.describe_stacks()["Stacks"]}
        given = [{"ParameterKey": key, "ParameterValue": parameters[key]} for key in parameters]
        act = cloudformation.update_stack if name in names else cloudformation.create_stack
        act(StackName=name, TemplateBody=template.read_text("utf-8"), Parameters=given, Capabilities=["CAPABILITY_IAM"])
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        assert stack["StackStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
        return {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", ())}

    def server(self, name: str, network: dict[str, str], **parameters: str) -> dict[str, str]:
        """Creates or changes a tracking server in that network; returns its outputs."""
        places = {key: network[key] for key in ("VpcId", "ServerSubnetId", "ServerZone", "TaskSubnetIds")}
        subnets = {"DatabaseSubnetIds": network["PrivateSubnetIds"]}
        return self.deploy(name, TRACKING_SERVER, **places, **subnets, **parameters)

    def user_data(self) -> str:
        """Returns the newest resolved user data."""
        ec2 = self.client("ec2")
        newest = ec2.describe_launch_templates()["LaunchTemplates"][-1]["LaunchTemplateId"]
        versions = ec2.describe_launch_template_versions(LaunchTemplateId=newest)["LaunchTemplateVersions"]
        version = max(versions, key=lambda one: one["VersionNumber"])
        return base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with running_aws(tmp_path / "aws") as aws:
        yield Cloud(aws.url)


@pytest.mark.slow
@pytest.mark.parametrize(("outbound", "zones"), [("none", "2"), ("nat", "3"), ("endpoints", "2")])
def test_the_network_has_its_subnets_and_a_way_out(outbound: str, zones: str, cloud: Cloud) -> None:
    outputs = cloud.deploy("network", NETWORK, Outbound=outbound, Zones=zones)
    ec2 = cloud.client("ec2")
    subnets = {one["SubnetId"]: one for one in ec2.describe_subnets()["Subnets"] if one["VpcId"] == outputs["VpcId"]}
    public, private = (outputs[f"{kind}SubnetIds"].split(",") for kind in ("Public", "Private"))

    assert {*public, *private} == subnets.keys() and len(subnets) == 2 * int(zones)
    assert len({subnets[one]["AvailabilityZone"] for one in public}) == int(zones)
    assert outputs["TaskSubnetIds"].split(",") == (public if outbound == "none" else private)
    assert outputs["ServerSubnetId"] in (private if outbound == "nat" else public)
    assert subnets[outputs["ServerSubnetId"]]["AvailabilityZone"] == outputs["ServerZone"]
    endpoints = [one for one in ec2.describe_vpc_endpoints()["VpcEndpoints"] if one["VpcId"] == outputs["VpcId"]]
    assert sorted(one["ServiceName"].rpartition("us-east-1.")[2] for one in endpoints) == sorted(
        ["s3", *(["ecr.api", "ecr.dkr", "logs", "secretsmanager", "ssm", "ssmmessages"] * (outbound == "endpoints"))]
    )


@pytest.mark.slow
@pytest.mark.parametrize("database", ["volume", "postgres"])
def test_a_server_is_wired_to_its_parts_and_a_new_version_keeps_them(database: str, cloud: Cloud) -> None:
    network = cloud.deploy("network", NETWORK)
    before = cloud.server("mlflow", network, Database=database, **CI)
    script = cloud.user_data()
    after = cloud.server("mlflow", network, Database=database, MlflowVersion="3.17.1", **CI)

    address = before["TrackingUri"].removeprefix("http://")
    assert re.fullmatch(r"10\.20\.\d+\.\d+:5000", address)
    assert f"--allowed-hosts {address}," in script and f"--cors-allowed-origins http://{address}," in script
    assert f"s3://{before['ArtifactBucket']}/artifacts" in script
    assert ("VOLUME=vol-" in script) == (database == "volume")
    assert (f'if "{before.get("DatabaseEndpoint")}":' in script) == (database == "postgres")
    assert len(script.encode()) < 16 * 1024
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert {**before, "MlflowVersion": "3.17.1"} == after


@pytest.mark.slow
def test_an_address_of_your_own_is_admitted_by_both_flags(cloud: Cloud) -> None:
    network = cloud.deploy("network", NETWORK)
    wheel = "https://example.com/mlflow_fargate-0.1.0-py3-none-any.whl"
    outputs = cloud.server("mlflow", network, ServerUrl="https://mlflow.example.com", PluginPackage=wheel)

    assert outputs["TrackingUri"] == "https://mlflow.example.com"
    assert "--allowed-hosts mlflow.example.com,10." in cloud.user_data()
    assert "--cors-allowed-origins https://mlflow.example.com,http://10." in cloud.user_data()
    assert f'prefix = "fargate-" if "{wheel}" else ""' in cloud.user_data()


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("terraform"), reason="Terraform is not installed")
def test_terraform_creates_both_stacks_from_the_block_of_the_page(cloud: Cloud, tmp_path: Path) -> None:
    """Where the AWS provider is not downloaded, TF_CLI_ARGS_init=-plugin-dir=FOLDER names its place."""
    folder = tmp_path / "terraform"
    folder.mkdir()
    (folder / "infrastructure").symlink_to(FOLDER)
    (code,) = re.findall(r"^```hcl\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (folder / "main.tf").write_text(code)
    environment = {**os.environ, **KEYS, "AWS_ENDPOINT_URL": cloud.url, "AWS_REGION": KEYS["AWS_DEFAULT_REGION"]}

    def terraform(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["terraform", *words, "-no-color"]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    if (init := terraform("init")).returncode:
        pytest.skip(f"Terraform cannot install its AWS provider: {init.stderr.strip()[-300:]}")
    done = terraform("apply", "-auto-approve")
    assert done.returncode == 0, done.stdout + done.stderr
    stacks = {one["StackName"]: one["Outputs"] for one in cloud.client("cloudformation").describe_stacks()["Stacks"]}
    assert stacks.keys() == {"network", "mlflow"} and "TrackingUri" in {one["OutputKey"] for one in stacks["mlflow"]}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until_up(uri: str, instance: Instance) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{uri}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise AssertionError(instance.log[-3000:])


def log_run(uri: str, text: str) -> str:
    """Logs a run with an artifact as the administrator; returns its ID."""
    with use_tracking_uri(uri), mlflow.start_run() as run:
        mlflow.log_metric("accuracy", 0.9)
        mlflow.log_text(text, "note.txt")
    return str(run.info.run_id)


def read_run(uri: str, run_id: str) -> tuple[float, str]:
    with use_tracking_uri(uri):
        accuracy = mlflow.get_run(run_id).data.metrics["accuracy"]
        return accuracy, mlflow.artifacts.load_text(f"runs:/{run_id}/note.txt")


@needs_debootstrap
@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_instance_starts_restarts_and_is_replaced_by_one_with_a_newer_mlflow(
    cloud: Cloud, tmp_path: Path, plugin_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is another one, because the instance has this machine's network."""
    network, port, volume = cloud.deploy("network", NETWORK), free_port(), tmp_path / "volume"
    outputs = cloud.server("mlflow", network, MlflowVersion=PREVIOUS_MINOR)
    bucket, uri, host = (
        outputs["ArtifactBucket"],
        f"http://127.0.0.1:{port}",
        outputs["TrackingUri"][len("http://") : -5],
    )
    volume.mkdir()
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=bucket)  # the local stack's S3 is another than moto's
    environment = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": cloud.url}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])

    with new_instance(tmp_path, volume, environment) as instance:
        done = instance.start(cloud.user_data().replace(":5000", f":{port}").replace("--port 5000", f"--port {port}"))
        assert done.returncode == 0, (done.stdout + done.stderr + instance.log)[-6000:]
        assert instance.signal.startswith("--exit-code 0 ") and "--resource Server" in instance.signal
        check_users(instance)
        check_security(uri, f"{host}:{port}")
        first = log_run(uri, "of the previous minor version")
        assert [one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix="artifacts/")["Contents"]]

        instance.run("systemctl", "restart", "mlflow.service")
        wait_until_up(uri, instance)
        assert read_run(uri, first) == (0.9, "of the previous minor version")
        restore_backup(instance, volume, uri, s3, bucket)
        assert not (instance.root / "owned").exists()

    s3.upload_file(str(plugin_wheel), bucket, f"plugin/{plugin_wheel.name}")
    # Another stack with the same data, because moto updates no resource of which only parameters changed.
    plugin = f"s3://{bucket}/plugin/{plugin_wheel.name}"
    cloud.server("newer", network, PluginPackage=plugin, ExistingBucket=bucket)
    with new_instance(tmp_path, volume, environment) as instance:
        done = instance.start(cloud.user_data().replace(":5000", f":{port}").replace("--port 5000", f"--port {port}"))
        assert done.returncode == 0, (done.stdout + done.stderr + instance.log)[-6000:]
        assert read_run(uri, first) == (0.9, "of the previous minor version")
        assert read_run(uri, log_run(uri, "of this version")) == (0.9, "of this version")
        assert requests.get(f"{uri}/version", auth=ADMIN, timeout=10).text == "3.17.2"
        assert "fargate-sqlite:" in (instance.root / "run/mlflow/environment").read_text()
        with use_tracking_uri(uri):
            client = mlflow.MlflowClient()
            client.create_registered_model("churn")
            client.create_model_version("churn", f"s3://{bucket}/artifacts/churn")
            client.transition_model_version_stage("churn", "1", "Production")
        backups = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket, Prefix="backups/newer/")["Contents"]]
        assert {key.rpartition("/")[2] for key in backups} == {"mlflow.db", "basic_auth.db"}


def restore_backup(instance: Instance, volume: Path, uri: str, s3: Any, bucket: str) -> None:
    """A run after the backup is gone, by the commands of the page; the next instance starts with what is restored."""
    instance.run("runuser", "-u", "mlflow", "--", "/opt/mlflow/bin/mlflow-backup")  # as the timer does each day
    later = log_run(uri, "after the backup")
    (key,) = (
        one["Key"]
        for one in s3.list_objects_v2(Bucket=bucket, Prefix="backups/mlflow/")["Contents"]
        if one["Key"].endswith("/mlflow.db")
    )
    page = PAGE.read_text("utf-8")
    (commands,) = re.findall(r"^```bash\n(systemctl stop mlflow\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    place = key.removeprefix("backups/mlflow/").removesuffix("/mlflow.db")
    script = commands.replace("BUCKET", bucket).replace("STACK", "mlflow").replace("TIME", place)
    instance.run("bash", "-ec", script.replace("poweroff\n", ""))
    with sqlite3.connect(volume / "mlflow.db") as database:
        found = {row[0] for row in database.execute("SELECT run_uuid FROM runs")}
    assert found and later not in found


def check_users(instance: Instance) -> None:
    """The server is not root, its secrets are readable by it alone, and no command line shows them."""
    processes = instance.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; stat -c %U:%a /run/mlflow/*").stdout
    assert ADMIN[1] not in processes
    assert "root:640\nroot:640" in processes
    pid = instance.run("cat", "/run/mlflow.pid").stdout
    assert instance.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip() == "mlflow"


def check_security(uri: str, name: str) -> None:
    """A login is required; the server's own page can post, pages and names of others cannot."""
    search = f"{uri}/ajax-api/2.0/mlflow/experiments/search"

    def post(host: str, origin: str, auth: tuple[str, str] | None = ADMIN) -> int:
        headers = {"Host": host, "Origin": origin}
        return requests.post(search, json={"max_results": 1}, headers=headers, auth=auth, timeout=30).status_code

    port = name.rpartition(":")[2]
    assert post(name, f"http://{name}") == 200
    assert post(f"localhost:{port}", f"http://localhost:{port}") == 200
    assert post(name, f"http://{name}", None) == 401
    assert post(name, f"http://{name}", ("admin", "password1234")) == 401
    assert post(name, "http://evil.example.com") == 403
    assert post("evil.example.com", "http://evil.example.com") == 403


@pytest.fixture
def plugin_wheel(tmp_path: Path) -> Path:
    """This project as a wheel."""
    root = Path(__file__).parents[1]
    command = ["uv", "build", "-q", "--wheel", "--out-dir", str(tmp_path / "wheel"), str(root)]
    path = f"{root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    return wheel
