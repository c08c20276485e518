"""The builders, each with its commands: `first`, then `warm` (a new model, same machine), then `cold` (empty machine).

A builder's repository and local state begin empty in each round; uv's own cache of packages is warm for all of them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from benchmarks.earlier_release import earlier_release
from benchmarks.images.bed import Bed
from mlflow_fargate.image import LINUX_AMD64, Registry

CASES = ("first", "warm", "cold")
_DOCKERFILE = Path(__file__).with_name("Dockerfile")
_STORAGE = '[storage]\ndriver = "overlay"\ngraphroot = "{work}/graph"\nrunroot = "{work}/run"\n'
_INSECURE = '[[registry]]\nlocation = "{address}"\ninsecure = true\n'


class Builder(Protocol):
    """A builder, with a repository of the same name."""

    repository: str

    def cases(self) -> tuple[str, ...]:
        """The subset of CASES it supports."""

    def forget(self) -> None:
        """Resets to a clean machine."""

    def script(self, case: str, model: Path) -> str:
        """Returns the shell commands that put the image into the registry."""

    def environment(self) -> Mapping[str, str]:
        """Environment variables for the script."""


class Ours:
    """mlflow-fargate's layers."""

    def __init__(self, bed: Bed, repository: str) -> None:
        self._bed, self.repository, self._cache = bed, repository, bed.work / "ours"

    def cases(self) -> tuple[str, ...]:
        return CASES

    def forget(self) -> None:
        shutil.rmtree(self._cache, ignore_errors=True)

    def script(self, case: str, model: Path) -> str:
        bed, name = self._bed, f"{self._bed.address}/{self.repository}"
        arguments = [bed.base, bed.service, model, f"{name}:{case}", self._cache, f"{name}:first"]
        return shlex.join([str(bed.python), "-m", "benchmarks.images.ours", *map(str, arguments)])

    def environment(self) -> Mapping[str, str]:
        return {}


class OursBefore(Ours):
    """The first image with mlflow-fargate as it was at an earlier commit."""

    def __init__(self, bed: Bed, repository: str) -> None:
        super().__init__(bed, repository)
        self._cache = bed.work / "ours-before"

    def cases(self) -> tuple[str, ...]:
        return ("first",)

    def script(self, case: str, model: Path) -> str:
        return f"cd {earlier_release()}\n{super().script(case, model)}"


class Dockerfile:
    """A carefully written Dockerfile: uv, packages before the model, the model last; built by buildah."""

    def __init__(self, bed: Bed, repository: str, *, registry_cache: bool = False) -> None:
        self._bed, self.repository, self._buildah = bed, repository, _Buildah(bed, repository)
        self._image = f"{bed.address}/{repository}"
        cache = f"{bed.address}/{repository}-cache"
        self._cache = f"--cache-from {cache} --cache-to {cache}" if registry_cache else ""

    def cases(self) -> tuple[str, ...]:
        return ("first", "cold") if self._cache else CASES

    def forget(self) -> None:
        self._buildah.forget()

    def script(self, case: str, model: Path) -> str:
        context, tag = self._bed.work / "context", f"{self._image}:{case}"
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(self._bed.service, context / "service")
        shutil.copytree(model, context / "model")
        return (
            f"buildah bud --layers --pull {self._cache} --build-arg BASE={self._bed.base} -v {_uv_cache()} "
            # Like the other side: less time, and smaller, than with gzip.
            f"-f {_DOCKERFILE} -t {tag} {context}\n"
            f"buildah push --compression-format zstd --compression-level 3 {tag}"
        )

    def environment(self) -> Mapping[str, str]:
        return self._buildah.environment()


class BentoML:
    """`bentoml build`, `bentoml containerize` with buildah, and a push."""

    def __init__(self, bed: Bed, repository: str) -> None:
        self._bed, self.repository, self._buildah = bed, repository, _Buildah(bed, repository)
        self._image = f"{bed.address}/{repository}"
        self._home = bed.work / "bentoml"

    def cases(self) -> tuple[str, ...]:
        return CASES

    def forget(self) -> None:
        self._buildah.forget()
        shutil.rmtree(self._home, ignore_errors=True)

    def script(self, case: str, model: Path) -> str:
        context, tag = self._bed.work / "bento-context", f"{self._image}:{case}"
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(self._bed.service, context)
        shutil.copytree(model, context / "model")
        bentoml = self._bed.python.with_name("bentoml")
        return (
            f"cd {context}\n{bentoml} build . --name bench --version {case} --output tag\n"
            f"{bentoml} containerize bench:{case} --backend buildah -t {tag} --opt volume={_uv_cache()}\n"
            f"buildah push {tag}"
        )

    def environment(self) -> Mapping[str, str]:
        own = {"BENTOML_HOME": str(self._home), "BENTOML_DO_NOT_TRACK": "true", "BENCHMARK_BASE": str(self._bed.base)}
        return {**self._buildah.environment(), **own}


class MLflow:
    """`mlflow models generate-dockerfile` on the same base, built by buildah."""

    def __init__(self, bed: Bed, repository: str) -> None:
        self._bed, self.repository, self._buildah = bed, repository, _Buildah(bed, repository)

    def cases(self) -> tuple[str, ...]:
        return ("first", "warm")

    def forget(self) -> None:
        self._buildah.forget()

    def script(self, case: str, model: Path) -> str:
        context, tag = self._bed.work / "mlflow-context", f"{self._bed.address}/{self.repository}:{case}"
        shutil.rmtree(context, ignore_errors=True)
        cache = self._bed.work / "pip-cache"
        cache.mkdir(exist_ok=True)
        mlflow = Path(sys.executable).with_name("mlflow")
        return (
            f"{mlflow} models generate-dockerfile -m {model} --output-directory {context} --env-manager local\n"
            f"sed -i 's|^FROM .*|FROM {self._bed.base}|' {context}/Dockerfile\n"
            f"buildah bud --layers --pull -v {cache}:/root/.cache/pip -t {tag} {context}\nbuildah push {tag}"
        )

    def environment(self) -> Mapping[str, str]:
        return {**self._buildah.environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{self._bed.work}/mlflow.db"}


class Floor:
    """`tar | zstd | PUT` of the same files: the lower bound for any builder."""

    def __init__(self, bed: Bed, repository: str) -> None:
        self._bed, self.repository, self._tree = bed, repository, bed.work / "tree"

    def cases(self) -> tuple[str, ...]:
        return ("first", "warm")

    def forget(self) -> None:
        """Unpacks what mlflow-fargate's image contains above its base, if not done yet."""
        if self._tree.exists():
            return
        subprocess.run(["bash", "-c", Ours(self._bed, "for-floor").script("first", self._bed.model(1))], check=True)
        self._tree.mkdir()
        with Registry(self._bed.address) as registry:
            for layer in registry.read_manifest("for-floor", "first", LINUX_AMD64).manifest.own_layers().values():
                command = f"zstd -dcq | tar -xC {self._tree}"
                with subprocess.Popen(["bash", "-c", command], stdin=subprocess.PIPE) as process:
                    for chunk in registry.stream_blob("for-floor", layer.descriptor):
                        assert process.stdin
                        process.stdin.write(chunk)

    def script(self, case: str, model: Path) -> str:
        return _put(self._bed, self.repository, self._tree if case == "first" else model)  # it has a model already

    def environment(self) -> Mapping[str, str]:
        return {}


class LargeFloor:
    """The floor for a model of 4 GB, from this machine's disk."""

    def __init__(self, bed: Bed, repository: str) -> None:
        self._bed, self.repository = bed, repository

    def cases(self) -> tuple[str, ...]:
        return ("large",)

    def forget(self) -> None:
        """Does nothing: no cache is kept."""

    def script(self, case: str, model: Path) -> str:
        return _put(self._bed, self.repository, self._bed.large_model)

    def environment(self) -> Mapping[str, str]:
        return {}


class Large:
    """mlflow-fargate with a new model of 4 GB from S3, in a repository that has its packages; then the same again."""

    def __init__(self, bed: Bed, repository: str) -> None:
        self._bed, self.repository, self._cache = bed, repository, bed.work / "large"

    def cases(self) -> tuple[str, ...]:
        return ("large", "again")

    def forget(self) -> None:
        """Make sure that the model is in S3, and an image with the same packages in the repository."""
        shutil.rmtree(self._cache, ignore_errors=True)
        self._bed.store("large", self._bed.large_model)
        small = self._bed.work / "model-small"
        if not small.exists():
            shutil.copytree(self._bed.large_model, small, ignore=shutil.ignore_patterns("weights"))
            (small / "weights").write_bytes(b"small")
        self._bed.store("small", small)
        subprocess.run(["bash", "-c", self._command("small", "small")], check=True, env={**os.environ})

    def script(self, case: str, model: Path) -> str:
        return self._command("large", "large")

    def environment(self) -> Mapping[str, str]:
        return {}

    def _command(self, name: str, model: str) -> str:
        bed = self._bed
        arguments = [
            bed.base,
            bed.s3_url,
            f"s3://models/{model}",
            f"{bed.address}/{self.repository}",
            name,
            self._cache,
        ]
        return shlex.join([str(bed.python), "-m", "benchmarks.images.large", *map(str, arguments)])


def _put(bed: Bed, repository: str, folder: Path) -> str:
    blob = bed.work / "floor.tar.zst"
    uploads = f"http://{bed.address}/v2/{repository}/blobs/uploads/"
    return (
        f"tar -cC {folder} . | zstd -3 -T0 -qf -o {blob}\ndigest=$(sha256sum {blob} | cut -d' ' -f1)\n"
        f"place=$(curl -sfX POST -D - -o /dev/null {uploads} | tr -d '\\r' | sed -n 's/^Location: //p')\n"
        f'curl -sfT {blob} -H "Content-Type: application/octet-stream" "$place&digest=sha256:$digest"\nrm {blob}'
    )


class _Buildah:
    """buildah's storage in a folder of its own, and the settings that work without a daemon and in a container."""

    def __init__(self, bed: Bed, name: str) -> None:
        self._work = bed.work / "buildah" / name
        self._address = bed.address

    def forget(self) -> None:
        if self._work.exists():
            subprocess.run(["buildah", "rm", "--all"], env=self._with_path(), check=False, capture_output=True)
            subprocess.run(["umount", f"{self._work}/graph/overlay"], check=False, capture_output=True)
            shutil.rmtree(self._work)
        self._work.mkdir(parents=True)
        (self._work / "storage.conf").write_text(_STORAGE.format(work=self._work))
        (self._work / "registries.conf").write_text(_INSECURE.format(address=self._address))

    def environment(self) -> Mapping[str, str]:
        return {
            "CONTAINERS_STORAGE_CONF": str(self._work / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self._work / "registries.conf"),
            "BUILDAH_ISOLATION": "chroot",
            "BUILDAH_LAYERS": "true",
        }

    def _with_path(self) -> dict[str, str]:
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.environment()}


def _uv_cache() -> str:
    """uv's cache here, mounted where a build that runs as root in its container looks for it."""
    found = subprocess.run([_uv(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{found}:/root/.cache/uv"


def _uv() -> str:
    return str(Path(sys.executable).with_name("uv"))
