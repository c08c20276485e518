"""The README's two commands on a minimal Debian (fresh_system.sh), which leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fresh_system.sh")

needs_debootstrap = pytest.mark.skipif(
    not shutil.which("debootstrap") or os.geteuid() != 0,
    reason="debootstrap is not installed (apt-get install debootstrap), or not run as root",
)


def environment(temporary: Path) -> Mapping[str, str]:
    return {**os.environ, "TMPDIR": str(temporary)}


@needs_debootstrap
@pytest.mark.exhaustive
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_demo_and_the_tests_pass_on_a_fresh_debian(suite: str, tmp_path: Path) -> None:
    command = ["make", "-s", "-C", str(SCRIPT.parents[1]), "fresh", f"SUITE={suite}"]

    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)

    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{suite}: demo exited with 0" in done.stdout
    assert f"{suite}: test exited with 0" in done.stdout
    assert not list(tmp_path.iterdir())


@needs_debootstrap
@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_fresh_system_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen([str(SCRIPT), "bookworm"], env=environment(tmp_path), stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 120
            while not list(tmp_path.glob("*/root/var")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(number)

            assert process.wait(240) == 128 + number
        finally:
            process.terminate()

    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(tmp_path) in command_line(pid)]


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_an_unknown_suite_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SCRIPT), "warty"], env=environment(tmp_path), capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "bookworm|trixie" in done.stderr
    assert not list(tmp_path.iterdir())
