"""Models that do not start in their containers: the error, the model version's tag and the hint give the cause."""

from __future__ import annotations

import _ctypes
import gzip
import io
import json
import pickle
import platform
import re
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import mlflow
import numpy as np
import pytest
from mlflow.deployments import get_deploy_client

from mlflow_fargate.errors import RolloutFailed, SmokeTestFailed
from mlflow_fargate.local.container.container_engine import make_programs
from mlflow_fargate.local.registry.base_image import BASE_REPOSITORY
from mlflow_fargate.local.registry.grammar import digest_of
from mlflow_fargate.local.registry.store import RegistryStore
from mlflow_fargate.local.tracking import BUCKET
from support.container_stack import DOUBLER, QUICK, REQUIREMENTS, ROWS, TARGET, log_model, wait_until_left
from support.image import GLIBC

pytestmark = [pytest.mark.exhaustive, pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = """
import ctypes, pickle, subprocess
from pathlib import Path

import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        LOAD

    def predict(self, context, model_input, params=None):
        return model_input

mlflow.models.set_model(Model())
"""
OTHER_CPU = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
ELF_NUMBERS = {"x86_64": 62, "aarch64": 183}
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER_BASE = f"public.ecr.aws/{BASE_REPOSITORY}:other-cpu"


@dataclass(frozen=True)
class Broken:
    """A model that does not start: what it does when it loads, and what the error must show."""

    load: str
    cause: str  # a regular expression
    hint: str
    options: Mapping[str, str] = field(default_factory=dict)
    deletes: str | None = None  # an artifact that is not in S3 any more
    requirements: tuple[str, ...] = REQUIREMENTS


BROKEN = {
    "missing package": Broken(
        "import a_module_that_is_not_there",
        "ModelLoadError: ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        "-C requirements=a_module_that_is_not_there",
    ),
    "missing shared library": Broken(
        "ctypes.CDLL(context.artifacts['lacking'])",
        r"ModelLoadError: OSError: libffx\.so\S*: cannot open shared object file: No such file or directory",
        "-C system_packages=",
    ),
    "library for another CPU": Broken(
        "ctypes.CDLL(context.artifacts['foreign'])",
        rf"ModelLoadError: OSError: \S+foreign\.so: .+ \(it is there, but built for {OTHER_CPU}, not \w+\)",
        "built for another CPU",
    ),
    "program for another CPU": Broken(
        "program = Path('/tmp/probe'); program.write_bytes(Path(context.artifacts['program']).read_bytes()); "
        "program.chmod(0o755); subprocess.run([str(program)])",
        r"ModelLoadError: OSError: \[Errno 8\] Exec format error: '/tmp/probe'",
        "built for another CPU",
    ),
    "pickle of another version": Broken(
        "pickle.loads(Path(context.artifacts['weights']).read_bytes())",
        r"ModelLoadError: ModuleNotFoundError: No module named 'numpy\._core\S*'",
        "the model was pickled with different package versions than the ones installed",
        requirements=(*REQUIREMENTS, "numpy==1.25.2"),
    ),
    "exception in load_context": Broken(
        "raise ValueError('the weights are\\nupside down')",
        "ModelLoadError: ValueError: the weights are upside down",
        "",
    ),
    "out of memory": Broken(
        "self.ballast = bytearray(b'x') * (2 << 30)",
        "OutOfMemoryError: Container killed due to memory usage",
        "raise memory=",
        options={"memory": "512", "cpu": "256"},
    ),
    "base image for another CPU": Broken(
        "pass",
        "(?i)exec(?: container process.*)? format error",
        "architecture=",
        options={"base_image": OTHER_BASE, "architecture": {"aarch64": "ARM64", "x86_64": "X86_64"}[OTHER_CPU]},
    ),
    "missing artifact": Broken(
        "Path(context.artifacts['vocabulary']).read_text()",
        r"ModelLoadError: FileNotFoundError: \[Errno 2\] No such file or directory: '\S+vocabulary\.txt'",
        "the model's files do not include artifacts/vocabulary.txt; log the model again",
        deletes="vocabulary.txt",
    ),
    "file of another machine": Broken(
        "Path('/home/ana/vocabulary.txt').read_text()",
        r"ModelLoadError: FileNotFoundError: \[Errno 2\] No such file or directory: '/home/ana/vocabulary\.txt'",
        "/home/ana/vocabulary.txt; log the file with the model, as one of its artifacts",
    ),
}
WITH_SMOKE_TEST = ("missing package", "exception in load_context", "missing artifact")


@pytest.fixture(scope="module")
def stack_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the cache directory of a stack whose registry has a second base image."""
    cache = tmp_path_factory.mktemp("cache")
    push_other_base(RegistryStore(cache / "local" / "registry"))
    return cache


@pytest.fixture(scope="module")
def keeper(container_stack: dict[str, str]) -> Iterator[str]:
    """Deploys a model that works; returns its name."""
    log_model(DOUBLER, "keeper")
    get_deploy_client(TARGET).create_deployment("keeper", "models:/keeper/1", config=QUICK)
    yield "keeper"
    get_deploy_client(TARGET).delete_deployment("keeper")


@pytest.mark.parametrize(
    ("kind", "smoke_test"),
    [*((kind, False) for kind in BROKEN), *((kind, True) for kind in WITH_SMOKE_TEST)],
)
def test_the_cause_is_in_the_error_and_in_the_tag_and_the_stack_goes_on(
    kind: str,
    smoke_test: bool,
    keeper: str,
    list_containers: Callable[[], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = BROKEN[kind]
    name = f"broken-{list(BROKEN).index(kind)}{'-tested' if smoke_test else ''}"
    register(broken, name, tmp_path)
    client = get_deploy_client(TARGET)
    expected = SmokeTestFailed if smoke_test else RolloutFailed
    options = {**QUICK, "smoke_test": str(smoke_test).lower(), **broken.options}

    with pytest.raises(expected) as raised:
        client.create_deployment(name, f"models:/{name}/1", config=options)

    cause = re.search(broken.cause, raised.value.message)
    hint = raised.value.hint or ""
    with capsys.disabled():
        shown = cause[0] if cause else raised.value.message
        print(f"\n| {kind}{', smoke test' if smoke_test else ''} | `{shown}` | {hint} |")
    assert cause, raised.value.message
    assert broken.hint in hint
    tag = mlflow.MlflowClient().get_model_version(name, "1").tags[f"fargate.default.{name}.status"]
    assert tag.startswith("failed: ")
    assert cause[0] in tag
    wait_until_left(list_containers, 1)
    if not smoke_test:
        client.delete_deployment(name)
    assert client.predict(keeper, ROWS)["predictions"] == [{"x": 42.0}]
    assert [one["name"] for one in client.list_deployments()] == [keeper]
    assert len(list_containers()) == 1


def register(broken: Broken, name: str, folder: Path) -> None:
    code = folder / "code.py"
    code.write_text(MODEL.replace("LOAD", broken.load))
    artifacts = {key: str(path) for key, path in write_artifacts(folder).items() if f"'{key}'" in broken.load}
    log_model(code, name, broken.requirements, **({"artifacts": artifacts} if artifacts else {}))
    if broken.deletes is not None:
        s3 = boto3.client("s3")
        listed = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [one["Key"] for page in listed for one in page.get("Contents", ())]
        (key,) = (key for key in keys if key.endswith(f"/artifacts/{broken.deletes}"))
        s3.delete_object(Bucket=BUCKET, Key=key)


def write_artifacts(folder: Path) -> dict[str, Path]:
    """Returns a library that lacks another one, a library and a program for another CPU, a pickle, and a text."""
    content = Path(_ctypes.__file__).read_bytes()
    assert b"libffi.so" in content
    foreign = content[:18] + ELF_NUMBERS[OTHER_CPU].to_bytes(2, "little") + content[20:]
    contents = {
        "lacking.so": content.replace(b"libffi.so", b"libffx.so"),
        "foreign.so": foreign,
        "program": program_for(OTHER_CPU),
        "weights.pkl": pickle.dumps(np.arange(3)),
        "vocabulary.txt": b"a b c",
    }
    for name, written in contents.items():
        (folder / name).write_bytes(written)
    return {Path(name).stem: folder / name for name in contents}


def program_for(machine: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(make_programs(machine))) as archive:
        found = archive.extractfile("probe")
        assert found is not None
        return found.read()


def push_other_base(store: RegistryStore) -> None:
    """Adds an image for the other CPU: its python3 only ends, and of its libraries there are the names."""
    files = {f"usr/local/bin/{name}": program_for(OTHER_CPU) for name in ("python3", f"python{MINOR}")}
    loader = {"aarch64": "ld-linux-aarch64.so.1", "x86_64": "ld-linux-x86-64.so.2"}[OTHER_CPU]
    files |= {f"usr/lib/{OTHER_CPU}-linux-gnu/{name}": b"" for name in (*GLIBC, loader)}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.mode, member.size = 0o755, len(content)
            archive.addfile(member, io.BytesIO(content))
    config = {
        "architecture": {"aarch64": "arm64", "x86_64": "amd64"}[OTHER_CPU],
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin", f"PYTHON_VERSION={platform.python_version()}"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.getvalue())]},
    }
    blobs = (json.dumps(config).encode(), gzip.compress(layer.getvalue(), mtime=0))
    kinds = ("config.v1+json", "layer.v1.tar+gzip")
    config_part, layer_part = (
        {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest_of(blob), "size": len(blob)}
        for kind, blob in zip(kinds, blobs, strict=True)
    )
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": media_type, "config": config_part, "layers": [layer_part]}
    store.create_repository(BASE_REPOSITORY)
    for blob in blobs:
        store.add_blob(BASE_REPOSITORY, blob)
    store.put_manifest(BASE_REPOSITORY, OTHER_BASE.rpartition(":")[2], json.dumps(manifest).encode(), media_type)
