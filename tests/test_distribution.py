"""What is built and installed: wheel and sdist contain every package, and MLflow finds the plugin in them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from uv import find_uv_bin

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "mlflow_fargate",
    "mlflow_fargate.aws",
    "mlflow_fargate.image",
    "mlflow_fargate.local",
    "mlflow_fargate.model",
)
FOR_UNIT_TESTS = (
    "scikit-learn>=1.5",
    "pandas>=2.2",
    "sqlalchemy>=2.0.40,<2.1",
)  # the last one: MLflow 3.1 does not support 2.1
# Folders of tests; "tests" runs what the others leave.
PARTS = (
    ("tests/service_template", "tests/onnx_converter"),
    ("tests/image", "tests/model"),
    ("tests/aws", "tests/local"),
    ("tests",),
)
# These read the project's own files, whatever is installed.
ABOUT_FILES = ("ci_examples", "docs", "floors", "fresh_system", "layers", "pictures", "recording", "wording")
# Each points to the folder `outside`, next to the installation.
HOSTILE_WHEELS: tuple[dict[str, str], ...] = (
    {"hostile-1.dist-info/entry_points.txt": "[console_scripts]\n../../outside/evil = hostile:main\n"},
    {"hostile-1.dist-info/entry_points.txt": "[gui_scripts]\n../../outside/evil = hostile:main\n"},
    {"../outside/evil": ""},
    {"hostile-1.data/scripts/../../../outside/evil": ""},
    {"hostile-1.data/data/../../../outside/evil": ""},
)
IAM_COMMAND = "from mlflow_fargate.cli import main; main(['iam', 'deployer', '--account', '123456789012'])"
# All but the extras, and what runs elsewhere.
IMPORT_CORE = """
import importlib, pkgutil, re, mlflow_fargate
others = "(local|webhook|image.sbom|service_template|onnx_converter|examples|registry_store|cli.__main__)"
names = [one.name for one in pkgutil.walk_packages(mlflow_fargate.__path__, "mlflow_fargate.")]
core = [name for name in names if not re.match(rf"mlflow_fargate[.]{others}([.]|$)", name)]
print(len([importlib.import_module(name) for name in core]))
"""
MAPPED = ("mlflow_fargate.webhook", "mlflow_fargate.service_template")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: a build leaves files behind that the next one would pick up."""
    ignored = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "dist", ".*_cache", ".hypothesis")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "mlflow-fargate", ignore=ignored))


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("--sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module", params=["checkout", "sdist"])
def installed(
    request: pytest.FixtureRequest, checkout: Path, sdist: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An installation from a wheel, built from the checkout or from the unpacked sdist."""
    source = checkout
    if request.param == "sdist":
        folder = tmp_path_factory.mktemp("unpacked")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder)  # this project's own wheel, so it is trusted
        (source,) = folder.iterdir()
    wheel = build("--wheel", source, tmp_path_factory.mktemp("wheel"))
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def build(what: str, source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", what, "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


def run_python(installed: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=installed).stdout


def test_every_built_package_can_be_imported(installed: Path) -> None:
    names = [*PACKAGES, *MAPPED]
    lines = [f"import {name}; print({name}.__file__)" for name in names if name != "mlflow_fargate.service_template"]

    places = run_python(installed, "\n".join(lines)).split()

    assert all(Path(place).is_relative_to(installed) for place in places), places
    assert (installed / "mlflow_fargate" / "service_template" / "service.py").is_file()
    shipped = {path.name for path in (installed / "mlflow_fargate" / "iam").iterdir()}
    assert shipped == {path.name for path in (ROOT / "docs" / "iam").glob("*.json")}
    assert '"iam:PermissionsBoundary"' in run_python(installed, IAM_COMMAND)
    for top, parts in (("service_template", "fargate_service"), ("webhook", "http")):
        wanted = {path.relative_to(ROOT) for path in (ROOT / top / parts).rglob("*") if path.suffix in {".py", ".html"}}
        assert wanted
        assert [path for path in wanted if not (installed / "mlflow_fargate" / path).is_file()] == []
    assert (installed / "mlflow_fargate" / "py.typed").is_file()


def test_mlflow_finds_the_built_plugin(installed: Path) -> None:
    code = (
        "import importlib.metadata as m\n"
        f"d = m.Distribution.at(next(__import__('pathlib').Path({str(installed)!r}).glob('*.dist-info')))\n"
        "print(sorted((e.group, e.name, e.value) for e in d.entry_points))"
    )

    found = run_python(installed, code)

    assert "('mlflow.deployments', 'fargate', 'mlflow_fargate')" in found
    store = "('mlflow.model_registry_store', 'fargate-postgresql', 'mlflow_fargate.registry_store:open_store')"
    assert store in found
    assert "('console_scripts', 'mlflow-fargate', 'mlflow_fargate.cli:main')" in found


def test_both_pass_the_package_indexs_checks(sdist: Path, checkout: Path, tmp_path: Path) -> None:
    wheel = build("--wheel", checkout, tmp_path)

    command = [sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows what belongs to the project")
def test_the_sdist_contains_the_whole_project(sdist: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}

    assert set(listed.splitlines()) - held == set()


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_the_wheel_works_in_a_separate_environment(checkout: Path, tmp_path: Path) -> None:
    wheel = build("--wheel", checkout, tmp_path / "dist")
    python = tmp_path / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]

    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(python.parents[1])], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), f"{wheel}[local,webhook]"], check=True)

    def say(*command: str) -> str:
        words = [str(python.parent / command[0]), *command[1:]]
        return subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    subprocess.run([*uv, "pip", "check", "--python", str(python)], check=True)
    assert "deregistration_delay_seconds" in say("mlflow", "deployments", "help", "-t", "fargate")
    assert "0.1.0" in say("mlflow-fargate", "--version")
    say("python", "-c", "import mlflow_fargate.local.stack, mlflow_fargate.webhook.serve")


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_the_demo_runs_from_a_wheel_without_a_checkout(checkout: Path, tmp_path: Path) -> None:
    wheel = build("--wheel", checkout, tmp_path / "dist")
    python = tmp_path / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(python.parents[1])], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), f"{wheel}[local,webhook,demo]"], check=True)
    environment = {**os.environ, "MLFLOW_FARGATE_CACHE": str(tmp_path / "cache"), "DEMO_EXIT": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    (tmp_path / "empty").mkdir()

    done = subprocess.run(
        [str(python.with_name("mlflow-fargate")), "demo"],
        cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "All checks passed" in done.stdout.splitlines()[-1]
    assert not list((tmp_path / "empty").iterdir()), "it left files in the working directory"


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_the_readme_runs_from_top_to_bottom_in_a_virtual_environment(checkout: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_FARGATE_CACHE": str(tmp_path)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "tests/support/readme_walk.py"]

    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    for said in (
        "python_function deployment churn is created",
        '{"predictions": [{"x": 3.0}, {"x": 4.0}]}',
        "Deployment churn is deleted",
        "the service says {'predictions': 14.0}",
        "model_version: 2",
    ):
        assert said in done.stdout


def install_oldest(checkout: Path, folder: Path, *requirements: str) -> Path:
    """Returns the Python of an environment with the oldest direct requirements; this environment has the newest."""
    python = folder / "venv" / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(python.parents[1])], check=True)
    install = [*uv, "pip", "install", "-q", "--python", str(python), "--resolution", "lowest-direct"]
    subprocess.run([*install, *requirements], cwd=checkout, check=True)
    return python


@pytest.fixture(scope="module")
def oldest(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment for unit tests with the oldest direct requirements."""
    folder = tmp_path_factory.mktemp("oldest")
    return install_oldest(checkout, folder, "-e", ".[local,webhook,test]", *FOR_UNIT_TESTS)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", PARTS, ids=", ".join)
def test_the_unit_tests_pass_with_the_oldest_allowed_versions(
    part: tuple[str, ...], checkout: Path, oldest: Path
) -> None:
    others = [folder for one in PARTS[:-1] for folder in one] if part == PARTS[-1] else []
    files = [f"tests/test_{name}.py" for name in ABOUT_FILES]
    assert all((checkout / path).exists() for path in (*others, *files, *part))

    options = ["-q", "-n", "2", "-m", "not slow and not end_to_end and not exhaustive"]
    ignored = [f"--ignore={path}" for path in (*others, *files)]
    command = [str(oldest), "-m", "pytest", *options, *ignored, *part]

    assert subprocess.run(command, cwd=checkout, check=False).returncode == 0


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_the_oldest_core_works_without_the_extras(checkout: Path, tmp_path: Path) -> None:
    """The local stack requires a newer MLflow than the plugin itself."""
    python = install_oldest(checkout, tmp_path, ".")

    imported = subprocess.run([str(python), "-c", IMPORT_CORE], capture_output=True, text=True, check=False)
    options = [str(python.with_name("mlflow")), "deployments", "help", "-t", "fargate"]

    assert imported.returncode == 0, imported.stderr
    assert int(imported.stdout) > 100
    assert "deregistration_delay_seconds" in subprocess.check_output(options, text=True, cwd=tmp_path)


@pytest.mark.parametrize("version", ["the oldest that is allowed", "this environment's"])
def test_no_wheel_writes_outside_the_installation_folder(version: str, tmp_path: Path) -> None:
    """A model names its packages, and uv runs on the deploying machine."""
    ours = find_uv_bin()
    if version == "the oldest that is allowed":
        oldest = tmp_path / "oldest"
        install = [ours, "pip", "install", "-q", "--python", sys.executable, "--target", str(oldest)]
        subprocess.run([*install, f"uv=={floor_of('uv')}"], check=True)
        ours = str(oldest / "bin" / "uv")
    outside = tmp_path / "outside"
    outside.mkdir()

    for number, files in enumerate(HOSTILE_WHEELS):
        target = tmp_path / f"site-{number}"
        wheel = write_wheel(tmp_path / str(number) / "hostile-1-py3-none-any.whl", files)
        command = [ours, "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(target)]
        done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)

        assert done.returncode or (target / "hostile.py").exists(), done.stderr
        assert not list(outside.iterdir()), files


def floor_of(requirement: str) -> str:
    """Returns the oldest version that setup.py allows."""
    lines = importlib.metadata.requires("mlflow-fargate") or []
    wanted = next(found for found in map(Requirement, lines) if found.name == requirement)
    (floor,) = (one.version for one in wanted.specifier if one.operator == ">=")
    return floor


def write_wheel(path: Path, files: Mapping[str, str]) -> Path:
    folder = "hostile-1.dist-info"
    described = {
        "hostile.py": "",
        f"{folder}/METADATA": "Metadata-Version: 2.1\nName: hostile\nVersion: 1\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**described, **files, f"{folder}/RECORD": ""}.items():
            archive.writestr(name, text)
    return path


def test_the_bento_floor_keeps_resolvers_from_walking_back(installed: Path) -> None:
    metadata = next(installed.glob("*.dist-info/METADATA")).read_text()

    assert "Requires-Dist: bentoml<2,>=1.4.39" in metadata
