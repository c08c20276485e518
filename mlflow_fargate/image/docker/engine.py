"""Runs the engines that build Dockerfiles; each one's image is saved as an archive in `docker save` format.

The engine pulls the base with its own logins. It does not push, so it gets no other credentials.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.progress import Progress

# build: options before the context. save: how the image gets into an archive.
ENGINES: dict[str, tuple[tuple[str, ...], Callable[[str, Path], tuple[str, ...]]]] = {
    "docker": ((), lambda name, archive: ("save", "--output", str(archive), name)),
    "podman": (
        ("--layers",),
        lambda name, archive: ("save", "--format", "docker-archive", "--output", str(archive), name),
    ),
    "buildah": (("--layers",), lambda name, archive: ("push", name, f"docker-archive:{archive}:{name}")),
}
_SHOWN_LINES = 20
# What the engines print when a step starts.
_STEP = re.compile(r"STEP \d+/\d+: .*|#\d+ \[.*\] .*|Step \d+/\d+ : .*")


def build_archive(
    engine: str, context: Path, archive: Path, *, name: str, platform: Platform, progress: Progress
) -> None:
    """Builds the Dockerfile in `context` and saves the image `name` to the file `archive`.

    The image stays in the engine, whose cache speeds up the next build. Raises ImageError with its last output.
    """
    program = shutil.which(engine)
    if program is None:
        raise ImageError(f"builder={engine}: {engine} is not installed.", hint="builder=layers needs no engine")
    build, save = ENGINES[engine]
    progress.note(f"building with {engine}")
    command = [program, "build", *build, "--platform", str(platform), "--tag", name, str(context)]
    _run(command, engine, progress)
    _run([program, *save(name, archive)], engine, progress)


def _run(command: Sequence[str], engine: str, progress: Progress) -> None:
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                last.append(line.rstrip())
                if _STEP.fullmatch(line.strip()):
                    progress.note(line.strip()[:160])
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise ImageError(
            f"{engine} could not {command[1]} the image (exit code {process.returncode}):\n"
            + "\n".join(f"    {line}" for line in last),
            hint="to build it yourself, write its Dockerfile with: mlflow-fargate image export --dockerfile FOLDER",
        )
