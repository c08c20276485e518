"""Files that are whole or absent, with real processes that write the same one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_fargate import atomic_files

SAVES = 2000
SAVE = """
import sys
from pathlib import Path
from mlflow_fargate import atomic_files
path, content = Path(sys.argv[1]), sys.argv[2].encode() * 2000
print("ready", flush=True)
sys.stdin.read()
for _ in range(int(sys.argv[3])):
    atomic_files.write(path, content)
"""


@pytest.mark.slow
def test_two_processes_that_save_the_same_file_never_disturb_each_other_or_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "state" / "file.json"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(path), mark, str(SAVES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark in ("one,", "two;")
    ]
    seen: set[bytes] = set()
    try:
        for writer in writers:
            assert writer.stdout and writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin
            writer.stdin.close()
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                seen.add(path.read_bytes())
        errors = [writer.stderr.read() for writer in writers if writer.stderr]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            for pipe in (writer.stdin, writer.stdout, writer.stderr):
                if pipe:
                    pipe.close()

    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert seen == {b"one," * 2000, b"two;" * 2000}
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic_files.write(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"):
        atomic_files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_was_not_moved_is_deleted(tmp_path: Path) -> None:
    with atomic_files.draft(tmp_path) as moved:
        moved.write_bytes(b"kept")
        moved.rename(tmp_path / "kept")
    with pytest.raises(KeyError), atomic_files.draft(tmp_path) as unfinished:
        unfinished.write_bytes(b"half")
        raise KeyError

    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    atomic_files.write(tmp_path / "secret", b"key", mode=0o600)
    atomic_files.write(tmp_path / "public", b"text")
    umask = os.umask(0)
    os.umask(umask)

    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o666 & ~umask
