"""What all builders share: CNCF's registry behind a counting proxy, a base image, pins, a model, a service."""

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
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uv

from benchmarks.images.measure import CountingProxy
from mlflow_fargate.image import LINUX_AMD64, Reference, Registry
from mlflow_fargate.image.image import OCI_CONFIG, OCI_LAYER_GZIP, Descriptor, Manifest, digest_of, encode_json
from mlflow_fargate.image.layer import digest_of_file, iter_file
from mlflow_fargate.image.packages import lock

# BentoML adds its own version to what it builds: another one here could not be installed beside it.
REQUIREMENTS = (f"bentoml=={version('bentoml')}", "tensorflow-cpu==2.21.0", "pillow>=10")
PYTHON = "3.11"
MODEL_BYTES = 30 * 10**6
_PACKAGES = "python3,ca-certificates"
_REGISTRY = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@dataclass(frozen=True)
class Bed:
    """The folder with everything, and the registry as the builders see it."""

    work: Path
    proxy: CountingProxy

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

    def model(self, number: int) -> Path:
        """The folder of the model's version: weights that do not compress, as floats do not."""
        folder = self.work / f"model-{number}"
        if not folder.exists():
            folder.mkdir()
            (folder / "MLmodel").write_text(f"flavors: {{}}\nversion: {number}\n")
            (folder / "weights").write_bytes(random.Random(number).randbytes(MODEL_BYTES))
        return folder


@contextmanager
def make_bed(work: Path) -> Iterator[Bed]:
    """A bed in `work`; what takes long to make there (the base image) is made once and kept."""
    missing = [name for name in ("docker-registry", "debootstrap", "zstd", "curl") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"Missing here: {', '.join(missing)}\n  hint: apt-get install {' '.join(missing)}")
    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(work / "registry", ignore_errors=True)
    with _registry(work) as port, closing(CountingProxy(port)) as proxy:
        bed = Bed(work, proxy)
        _push_base(bed, _base_archive(work))
        shutil.copytree(Path(__file__).with_name("service"), bed.service, dirs_exist_ok=True)
        pins = lock(REQUIREMENTS, python_version=PYTHON, platform=LINUX_AMD64, cache=work / "lock").packages
        bed.requirements.write_text("".join(f"{package.requirement}\n" for package in pins))
        _warm_up()
        yield bed


def _warm_up() -> None:
    """Let Python compile what the builders import, as an installation does."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for command in ("import mlflow_fargate.image", "from bentoml_cli.cli import cli"):
        subprocess.run([sys.executable, "-c", command], env=environment, check=True)


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
        # What this machine trusts: an index may stand behind a company's own certificate.
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
        registry.upload_blob(bed.base.repository, digest_of(config), lambda: [config])
        manifest = Manifest(Descriptor(OCI_CONFIG, digest_of(config), len(config)), (layer,))
        registry.write_manifest(bed.base.repository, PYTHON, manifest)


def machine() -> str:
    """This machine and the tools' versions, in a line."""
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    buildah = shutil.which("buildah") and subprocess.run(
        ["buildah", "--version"], capture_output=True, text=True, check=True
    )
    tools = buildah.stdout.split(" (")[0].replace("version ", "").strip() if buildah else "no buildah"
    return (
        f"{cores} cores, {platform.platform()}, Python {platform.python_version()}, {', '.join(REQUIREMENTS)}, {tools}"
    )
