"""What all builders share: CNCF's registry behind a counting proxy, a base image, pins, models, a service, Pythons."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import boto3
import uv

from benchmarks.images.measure import CountingProxy
from mlflow_fargate.image import LINUX_AMD64, Reference, Registry
from mlflow_fargate.image.layers.layer import digest_of_file, iter_file
from mlflow_fargate.image.oci.image import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest, encode_json, sha256_digest
from mlflow_fargate.image.packages.uv import lock

# BentoML adds its own version to what it builds; a different one here would conflict.
REQUIREMENTS = (f"bentoml=={version('bentoml')}", "tensorflow-cpu==2.21.0", "pillow>=10")
PYTHON = "3.11"
MODEL_BYTES = 30 * 10**6
LARGE_BYTES = 4 * 10**9
_PACKAGES = "python3,python3-pip,python-is-python3,ca-certificates"
_ROOT = Path(__file__).parents[2]
_MODEL = """artifact_path: model
flavors:
  python_function:
    {{loader_module: loader, data: weights, python_version: {python}.2, env: {{virtualenv: python_env.yaml}}}}
mlflow_version: {mlflow}
name: {name}
"""
_REGISTRY = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass(frozen=True)
class Bed:
    """The work folder, and the registry as the builders see it."""

    work: Path
    proxy: CountingProxy
    s3_url: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.proxy.port}"

    @property
    def base(self) -> Reference:
        return Reference(self.address, "library/python", PYTHON)

    @property
    def service(self) -> Path:
        return self.work / "service"

    @property
    def requirements(self) -> Path:
        return self.service / "requirements.txt"

    @property
    def python(self) -> Path:
        """The Python of an environment with only this plugin's requirements."""
        return self.work / "environment" / "bin" / "python"

    def model(self, number: int) -> Path:
        """The folder of the model's version: random weights, which do not compress, like real floats."""
        folder = self.work / f"model-{number}"
        if not folder.exists():
            _write_model(folder, str(number), REQUIREMENTS[1:])
            (folder / "weights").write_bytes(random.Random(number).randbytes(MODEL_BYTES))
        return folder

    def image_bytes(self, repository: str, tag: str) -> int:
        """The image's size as the registry stores it, including its base; 0 if there is none."""
        with Registry(self.address) as registry:
            found = registry.find_manifest(repository, tag, LINUX_AMD64)
        return sum(layer.size_bytes for layer in found.manifest.layers) if found else 0

    def store(self, name: str, folder: Path) -> None:
        """Uploads a model's files to S3 as s3://models/NAME."""
        session = boto3.Session("local", "local", region_name="us-east-1")
        client = session.client("s3", endpoint_url=self.s3_url)
        client.create_bucket(Bucket="models")
        for path in sorted(folder.iterdir()):
            client.upload_file(str(path), "models", f"{name}/{path.name}")

    @property
    def large_model(self) -> Path:
        """The folder of a model of 4 GB."""
        folder = self.work / "model-large"
        if not folder.exists():
            _write_model(folder, "large", ("numpy",))
            subprocess.run(["bash", "-c", f"head -c {LARGE_BYTES} /dev/urandom > {folder}/weights"], check=True)
        return folder


def _write_model(folder: Path, name: str, requirements: Sequence[str]) -> None:
    folder.mkdir()
    mlflow = version("mlflow-skinny")
    (folder / "MLmodel").write_text(_MODEL.format(python=PYTHON, mlflow=mlflow, name=name))
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))
    environment = f"python: {PYTHON}.2\nbuild_dependencies: [pip]\ndependencies: [-r requirements.txt]\n"
    (folder / "python_env.yaml").write_text(environment)


@contextmanager
def make_bed(work: Path) -> Iterator[Bed]:
    """Yields a bed in `work`; the base image, which takes long to build, is built once and kept."""
    missing = [name for name in ("docker-registry", "debootstrap", "zstd", "curl") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"Missing here: {', '.join(missing)}\n  hint: apt-get install {' '.join(missing)}")
    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "registry", ignore_errors=True)
    shutil.rmtree(work / "s3", ignore_errors=True)
    with _registry(work) as port, closing(CountingProxy(port)) as proxy, _store(work) as s3_url:
        bed = Bed(work, proxy, s3_url)
        _push_base(bed, _base_archive(work))
        shutil.copytree(Path(__file__).with_name("service"), bed.service, dirs_exist_ok=True)
        pins = lock(REQUIREMENTS, python_version=PYTHON, platform=LINUX_AMD64, cache=work / "lock").packages
        bed.requirements.write_text("".join(f"{package.requirement}\n" for package in pins))
        _install(bed.python)
        yield bed


def _install(python: Path) -> None:
    """Creates the environment of the builders written in Python, compiled as installers do."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    tool = uv.find_uv_bin()
    if not python.exists():
        subprocess.run([tool, "venv", "-q", "--python", PYTHON, str(python.parents[1])], check=True)
    install = [tool, "pip", "install", "-q", "--compile-bytecode", "--python", str(python), "-e", str(_ROOT)]
    # The same versions in both environments.
    install += [f"{name}=={version(name)}" for name in ("bentoml", "mlflow-skinny")]
    subprocess.run(install, env=environment, check=True)
    # Compiles the modules of this checkout.
    subprocess.run(
        [str(python), "-c", "import mlflow_fargate.deployments.deployer"], cwd=_ROOT, env=environment, check=True
    )


@contextmanager
def _registry(work: Path) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (work / "registry.yml").write_text(_REGISTRY.format(root=work / "registry", port=port))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(work / "registry.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _store(work: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.images.store", str(work / "s3")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _base_archive(work: Path) -> Path:
    """Debian with its Python, and the uv that the other builders call, as a gzipped tar."""
    archive, root = work / "base.tar.gz", work / "base"
    if not archive.exists():
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)],
            check=True,
            stdout=sys.stderr,
        )
        shutil.copy2(uv.find_uv_bin(), root / "usr/local/bin/uv")
        for note in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            note.unlink()  # pip may install, as in Docker's Python images
        # This machine's trusted certificates: a package index may use a company's own.
        shutil.copy2("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
        unfinished = archive.with_suffix(".unfinished")
        leave_out = ["--exclude=./var/cache/apt", "--exclude=./var/lib/apt/lists/*", "--exclude=./dev/*"]
        subprocess.run(["tar", "-C", str(root), *leave_out, "-czf", str(unfinished), "."], check=True)
        unfinished.rename(archive)
        shutil.rmtree(root)
    return archive


def _push_base(bed: Bed, archive: Path) -> None:
    unpacked = hashlib.sha256()
    with subprocess.Popen(["gzip", "-dc", str(archive)], stdout=subprocess.PIPE) as process:
        while chunk := process.stdout.read(1 << 20) if process.stdout else b"":
            unpacked.update(chunk)
    environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"PYTHON_VERSION={PYTHON}.2",
        "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
    ]
    config = encode_json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": environment},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{unpacked.hexdigest()}"]},
            "history": [{"created_by": "debootstrap"}],
        }
    )
    layer = Descriptor(OCI_LAYER_GZIP, digest_of_file(archive), archive.stat().st_size)
    with Registry(bed.address) as registry:
        registry.upload_blob(bed.base.repository, layer.digest, lambda: iter_file(archive))
        registry.upload_blob(bed.base.repository, sha256_digest(config), lambda: [config])
        manifest = Manifest(Descriptor(OCI_CONFIG, sha256_digest(config), len(config)), (layer,))
        registry.write_manifest(bed.base.repository, PYTHON, manifest)


def machine() -> str:
    """Returns this machine and the tools' versions, in one line."""
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    buildah = shutil.which("buildah") and subprocess.run(
        ["buildah", "--version"], capture_output=True, text=True, check=True
    )
    tools = buildah.stdout.split(" (")[0].replace("version ", "").strip() if buildah else "no buildah"
    versions = f"mlflow {version('mlflow')}, {', '.join(REQUIREMENTS)}, {tools}"
    processor = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ": ?")
    return (
        f"{date.today()}, {cores} cores ({processor.partition(':')[2].strip()}), {platform.platform()}, "
        f"Python {platform.python_version()}, {versions}."
    )
