"""`mlflow-fargate cache`: shows everything that is kept, and deletes nothing else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import mlflow_fargate
from mlflow_fargate.cli import main
from mlflow_fargate.cli.cache import _BUILDS, _LOCAL
from mlflow_fargate.target import process_start

SOURCES = Path(mlflow_fargate.__file__).parent


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_FARGATE_CACHE", str(tmp_path))
    for name in ("blobs", "models/m/deep", "local"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"x" * 8192)
    os.link(tmp_path / "blobs/file", tmp_path / "blobs/again")
    (tmp_path / "demo.log").touch()
    (tmp_path / "blobs" / "out").symlink_to(tmp_path / "local")
    return tmp_path


def run(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["cache", *arguments], input=answer)


def test_every_folder_that_builds_write_is_listed() -> None:
    written = {
        name
        for source in SOURCES.rglob("*.py")
        for name in re.findall(r"\bcache / \"([\w-]+)\"", source.read_text("utf-8"))
    }

    assert written <= {*_BUILDS, *_LOCAL}


def test_the_size_counts_a_file_once(place: Path) -> None:
    said = run("size").stdout

    assert re.search(r"^8\.2 kB +blobs ", said, re.MULTILINE)
    assert "24.6 kB in total" in said


def test_only_the_folders_of_builds_are_deleted(place: Path) -> None:
    said = run("clear", "--yes")

    assert (said.exit_code, said.stdout) == (0, "16.4 kB freed\n")
    assert sorted(path.name for path in place.iterdir()) == ["demo.log", "local"]
    assert (place / "local/file").exists()


def test_nothing_is_deleted_in_a_folder_with_other_files(place: Path) -> None:
    (place / "photos").mkdir()

    said = run("clear", "--yes")

    assert said.exit_code == 1
    assert f"{place} also has files that mlflow-fargate did not write: 'photos'." in said.stderr
    assert (place / "models/m/deep/file").exists()


def test_nothing_is_deleted_without_a_yes(place: Path) -> None:
    said = run("clear", answer="n\n")

    assert said.exit_code == 1
    assert f"Delete 16.4 kB in {place} (blobs, models)?" in said.stdout
    assert (place / "blobs/file").exists()


def test_the_data_of_a_running_stack_is_kept(place: Path) -> None:
    state = {"pid": os.getpid(), "process_start": process_start(os.getpid())}
    (place / "local/stack.json").write_text(json.dumps(state))

    refused = run("clear", "--local", "--yes")
    (place / "local/stack.json").unlink()
    run("clear", "--local", "--yes")

    assert refused.exit_code == 1 and "mlflow-fargate local down" in refused.stderr
    assert [path.name for path in place.iterdir()] == ["demo.log"]
