"""A real model's image in third-party tools: a registry, a copier, an unpacker, a sandbox.

CNCF distribution ←─ build_image on a base made by debootstrap
        │ skopeo copy
        ↓
an OCI layout ─ tar ─→ a root ─ bubblewrap ─→ the service, as an unknown user, on a read-only root
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
import uv
import yaml

from mlflow_fargate import bento
from mlflow_fargate.image import PushedImage, Reference, Registry, build_with_engine
from mlflow_fargate.image.layers.layer import files_below
from mlflow_fargate.image.oci.image import OCI_LAYER_GZIP
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resolved_model import ResolvedModel
from support.image import make_image, split
from support.serving_process import Running, stop_group, wait_until_ready
from tests.image.conftest import make_tar, push_layers

pytestmark = pytest.mark.exhaustive

USER = "65532:65532"
AS_USER = ("setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups")
MODEL_CODE = """
import mlflow

class Weighing(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input.sum(axis=1) * 3

mlflow.models.set_model(Weighing())
"""


@pytest.fixture
def weighing(tmp_path: Path) -> ResolvedModel:
    """A pyfunc model for Python 3.11, the version in Debian 12."""
    (tmp_path / "weighing.py").write_text(MODEL_CODE)
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=str(tmp_path / "weighing.py"),
        pip_requirements=["pandas<3"],
        input_example=pd.DataFrame({"a": [1.0], "b": [2.0]}),
    )
    return ResolvedModel(
        requested_uri="models:/weighing/1",
        resolved_uri="models:/weighing/1",
        artifact_uri=str(tmp_path / "model"),
        files=(),
        metadata=yaml.safe_load((tmp_path / "model" / "MLmodel").read_text()),
        requirements=("pandas<3",),
        python_version="3.11.2",
        name="weighing",
        version="1",
    )


@pytest.fixture
def inputs(
    distribution: str, debian_archive: bytes, weighing: ResolvedModel, tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """What both builders need to build the model's image on a base other than Docker's Python."""
    with Registry(distribution) as registry:
        tools = make_tar(
            {
                "usr/local/bin/uv": Path(uv.find_uv_bin()).read_bytes(),
                # This machine's trusted certificates: a package index may use a company's own.
                "etc/ssl/certs/ca-certificates.crt": Path("/etc/ssl/certs/ca-certificates.crt").read_bytes(),
            },
            mode=0o755,
        )
        base = push_layers(
            registry,
            Reference(distribution, "own/base", "12"),
            [debian_archive, gzip.compress(tools, 1)],
            history=["debootstrap", "uv, for the builder that installs with it"],
            environment=["PATH=/usr/local/bin:/usr/bin:/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
            media_type=OCI_LAYER_GZIP,  # buildah rejects Docker's types in an OCI manifest
        )
        yield {
            "base": base,
            "requirements": bento.service_requirements(bento.ServedModel(weighing, "pyfunc")),
            "python_version": "3.11",
            "service": bento.build_bento(bento.ServedModel(weighing, "pyfunc"), None, tmp_path / "bento").source,
            "model": files_below(Path(weighing.artifact_uri)),
            "labels": {"org.opencontainers.image.title": 'weighing "$HOME"'},
            "destination": Reference(distribution, "mlflow-fargate/default", "weighing.1"),
            "registry": registry,
            "cache": tmp_path / "cache",
            "progress": RecordedProgress(),
        }


@pytest.fixture
def buildah(distribution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """buildah with separate storage, without a daemon, also inside a container."""
    if not shutil.which("buildah"):
        pytest.skip("buildah is not installed (apt-get install buildah)")
    work = tmp_path / "containers"
    work.mkdir()
    # overlay copies nothing for a layer; vfs, which copies all of the root each time, works everywhere.
    for driver in ("overlay", "vfs"):
        storage = f'[storage]\ndriver = "{driver}"\ngraphroot = "{work}/graph"\nrunroot = "{work}/run"\n'
        (work / "storage.conf").write_text(storage)
        environment = {**os.environ, "CONTAINERS_STORAGE_CONF": str(work / "storage.conf")}
        if subprocess.run(["buildah", "info"], env=environment, capture_output=True, check=False).returncode == 0:
            break
    (work / "registries.conf").write_text(f'[[registry]]\nlocation = "{distribution}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(work / "storage.conf"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(work / "registries.conf"))
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    yield "buildah"
    subprocess.run(["buildah", "rm", "--all"], capture_output=True, check=False)
    subprocess.run(["umount", str(work / "graph" / "overlay")], capture_output=True, check=False)


@pytest.fixture
def root() -> Iterator[Path]:
    """An empty folder that every user can enter, unlike pytest's folders."""
    with tempfile.TemporaryDirectory(prefix="round-trip-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def sandbox_works() -> None:
    if missing := [tool for tool in ("skopeo", "bwrap", "zstd", "setpriv") if not shutil.which(tool)]:
        pytest.skip(f"not installed: {', '.join(missing)} (apt-get install bubblewrap skopeo zstd)")
    tried = subprocess.run(
        [*AS_USER, "bwrap", "--ro-bind", "/", "/", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"bubblewrap cannot make a sandbox here: {tried.stderr.strip()}")


def test_the_image_works_in_third_party_tools(
    sandbox_works: None, inputs: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    image = make_image(**inputs, model_key="weighing-1")

    check_round_trip(image, root, tmp_path)


def test_an_image_built_by_buildah_works_too(
    sandbox_works: None, buildah: str, inputs: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    spec, destination, how = split(**inputs)

    image = build_with_engine(buildah, spec, destination, **how)

    labels = check_round_trip(image, root, tmp_path)["Labels"]
    assert labels["org.opencontainers.image.title"] == 'weighing "$HOME"'
    assert labels["from"] == "base"
    assert any(line.startswith("STEP ") for line in inputs["progress"].lines)


def check_round_trip(image: PushedImage, root: Path, tmp_path: Path) -> dict[str, Any]:
    """Runs the image through the tools above; returns its configuration."""
    layout = tmp_path / "layout"

    seen = run("skopeo", "inspect", "--tls-verify=false", f"docker://{image.reference}")
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{image.reference}", f"oci:{layout}:taken")
    config: dict[str, Any] = unpack(layout, root)["config"]
    with sandbox(root, config, tmp_path / "service.log") as service:
        answer = requests.post(
            f"{service.url}/invocations",
            json={"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}},
            timeout=60,
        )
        users = users_of_session(service.process.pid)

    assert json.loads(seen)["Digest"] == image.reference.digest
    assert answer.json() == {"predictions": [{"0": 9.0}, {"0": 21.0}]}
    assert users == {"65532"}
    return config


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def unpack(layout: Path, root: Path) -> dict[str, Any]:
    """Unpacks the layers with tar, like a container runtime; returns the image's configuration."""
    blobs = layout / "blobs" / "sha256"

    def read(digest: str) -> Any:
        return json.loads((blobs / digest[7:]).read_text())

    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = read(entry["digest"])
    for layer in manifest["layers"]:
        codec = "--zstd" if layer["mediaType"].endswith("zstd") else "--gzip"
        run("tar", "-C", str(root), codec, "-xpf", str(blobs / layer["digest"][7:]))
    config: dict[str, Any] = read(manifest["config"]["digest"])
    return config


@contextmanager
def sandbox(root: Path, config: dict[str, Any], log: Path) -> Iterator[Running]:
    """Runs the entry point as Fargate would: the image's user, a read-only root, and a /tmp."""
    assert config["User"] == USER
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")  # a runtime provides this file
    environment = dict(entry.split("=", 1) for entry in config["Env"]) | {"BENTOML_PORT": str(port)}
    command = [*AS_USER, "bwrap", "--unshare-pid", "--unshare-ipc", "--ro-bind", str(root), "/"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--die-with-parent", "--clearenv"]
    command += [part for name, value in environment.items() for part in ("--setenv", name, value)]
    command += ["--chdir", config["WorkingDir"], *config["Entrypoint"]]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    running = Running(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until_ready(running)
        yield running
    finally:
        stop_group(process, 30)


def users_of_session(session: int) -> set[str]:
    """Returns the user IDs on this machine of all processes in the session."""
    users = set()
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                status = (folder / "status").read_text()
                users |= {line.split()[1] for line in status.splitlines() if line.startswith("Uid:")}
    return users
