"""The container engine of this machine: podman or docker, through the command line that both have.

`choose_engine` tests what is installed by running the smallest possible container with a task's restrictions: an engine
that is installed may still lack its daemon, permissions, cgroups or a network.
"""

from __future__ import annotations

import io
import os
import platform
import re
import resource
import secrets
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.container.run_arguments import EngineTraits, make_limits, make_read_only, make_ulimits

_TIMEOUT_SECONDS = 60.0
_LIMITS = (("memory", "cpu"), ("memory",), ())
_OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("--runtime", "runc"),
)  # crun, podman's default, refuses some cgroup setups
_NO_TRAITS = EngineTraits(is_podman=False, cpus=1)
# The ELF number of a machine, and machine code of two programs: exit(0), and ppoll() without end.
_PROGRAMS: dict[str, tuple[int, str, str]] = {
    "x86_64": (62, "31ffb83c0000000f05", "31ff31f631d24531d2b80f0100000f05ebee"),
    "aarch64": (183, "000080d2a80b80d2010000d4", "000080d2010080d2020080d2030080d2280980d2010000d4faffff17"),
}
_PROBE_MEMORY_MIB = 64


class EngineFailed(Exception):
    """The engine's command failed; the message is what it printed."""


@dataclass(frozen=True)
class ContainerEngine:
    """An engine's command line: `command` is the program, and the options that come before each subcommand."""

    command: tuple[str, ...]
    traits: EngineTraits
    version: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its processes. Podman 5 would begin each task's log with a warning about cgroups v1."""
        return {**os.environ, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}

    def call(
        self,
        *arguments: str,
        stdin: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        is_strict: bool = False,
    ) -> str:
        """Runs a subcommand; returns what it prints. EngineFailed if it fails or takes too long.

        `is_strict`: a warning that a limit is not applied is a failure.
        """
        try:
            done = subprocess.run(
                [*self.command, *arguments],
                input=stdin or b"",
                capture_output=True,
                env={**self.environment, **(environment or {})},
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineFailed(f"{self.name} {arguments[0]} did not finish within {timeout_seconds:g} s") from error
        except OSError as error:
            raise EngineFailed(f"{self.name}: {error.strerror}") from error
        except ValueError as error:  # NUL, or half of a surrogate pair
            raise EngineFailed(f"{self.name} cannot be called with these texts: {error}") from error
        if done.returncode or (is_strict and re.search(rb"(?i)ignored|discarded", done.stderr)):
            raise EngineFailed(last_words(done.stderr) or f"exit code {done.returncode}")
        return done.stdout.decode(errors="replace")

    @property
    def name(self) -> str:
        return "podman" if self.traits.is_podman else "docker"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that runs tasks (None: they are processes), and one line for the user about it."""

    engine: ContainerEngine | None
    description: str


def choose_engine(wanted: str) -> EngineChoice:
    """Returns the engine `wanted`, auto, podman, docker or process; LocalStackError if a named one does not work."""
    if wanted == "process":
        return EngineChoice(None, "processes, without isolation (--engine process)")
    said = []
    for name in ("podman", "docker") if wanted == "auto" else (wanted,):
        try:
            engine = find_engine(name)
        except EngineFailed as error:
            said.append(f"{name}: {error}")
            continue
        without = [limit for limit in _LIMITS[0] if limit not in engine.traits.limits]
        note = f"; this machine cannot limit their {' and '.join(without)}" if without else ""
        return EngineChoice(engine, f"containers ({' '.join((engine.version, *engine.command[1:]))}{note})")
    if wanted == "auto":
        return EngineChoice(None, f"processes, without isolation ({'; '.join(said)})")
    raise LocalStackError(
        f"The container engine does not run containers on this machine: {said[0]}",
        hint=f"try: {wanted} run --rm hello-world; to run tasks as processes: mlflow-fargate local up --engine process",
    )


def find_engine(name: str, options: Iterable[tuple[str, ...]] = _OPTIONS) -> ContainerEngine:
    """Returns podman or docker with the limits that it can enforce; EngineFailed if it cannot run a container.

    `options`: the options to try, in this order.
    """
    program = shutil.which(name)
    if program is None:
        raise EngineFailed("not installed")
    version = ContainerEngine((program,), _NO_TRAITS).call("--version").strip()
    is_podman = "podman" in version.lower()  # the command `docker` can be podman
    traits = EngineTraits(is_podman=is_podman, cpus=os.cpu_count() or 1, most=_hard_limits())
    engine = ContainerEngine((program,), traits, version)
    image = f"localhost/mlflow-fargate-probe:{secrets.token_hex(4)}"
    engine.call("import", "-", image, stdin=make_programs())
    failure = None
    try:
        for limits, words in product(_LIMITS, options if is_podman else ((),)):
            tested = replace(engine, command=(program, *words), traits=replace(traits, limits=limits))
            try:
                _run_probe(tested, image)
            except EngineFailed as error:
                failure = failure or error
            else:
                return tested
    finally:
        engine.call("rmi", "--force", image)
    raise failure or EngineFailed("no options to try")


def _run_probe(engine: ContainerEngine, image: str) -> None:
    """Runs a container with the restrictions of a task."""
    words = ["run", "--rm", "--pull=never", "--user", "65532", "--cap-drop", "ALL", "--publish", "127.0.0.1::80"]
    words += make_read_only(engine.traits)
    words += make_limits(engine.traits, memory_mib=_PROBE_MEMORY_MIB, cpu_units=256)
    engine.call(*words, *make_ulimits((), engine.traits), image, "/probe", is_strict=True)


def _hard_limits() -> dict[str, int]:
    """Returns what an engine can give a container without the right to raise limits; podman lowers nproc to pid_max."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, processes = resource.getrlimit(resource.RLIMIT_NPROC)
    found = {"nofile": [files], "nproc": [processes, int(Path("/proc/sys/kernel/pid_max").read_text())]}
    finite = {name: [n for n in values if n != resource.RLIM_INFINITY] for name, values in found.items()}
    return {name: min(values) for name, values in finite.items() if values}


def make_programs(machine: str | None = None) -> bytes:
    """Returns a tar with two programs for a machine, by default this one, which need no library.

    /probe exits with code 0; /pause runs until it is killed.
    """
    number, *codes = _PROGRAMS.get(machine or platform.machine(), _PROGRAMS["x86_64"])
    return pack({name: _program(number, code) for name, code in zip(("probe", "pause"), codes, strict=True)})


def _program(number: int, code: str) -> bytes:
    headers_bytes, base = 64 + 56, 0x400000
    size = headers_bytes + len(code) // 2
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, number, 1, base + headers_bytes, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)  # all of it, readable and executable
    return header + segment + bytes.fromhex(code)


def pack(files: Mapping[str, bytes]) -> bytes:
    """Returns a tar of the files, in folders that every user of the container can write to."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in sorted({str(parent) for name in files for parent in Path(name).parents} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def last_words(output: bytes) -> str:
    """Returns the end of what a failed command printed."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-2:]).removeprefix("Error: ")
