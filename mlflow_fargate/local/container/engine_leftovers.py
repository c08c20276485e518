"""What a stack leaves in a container engine, and its removal, also after the stack was killed.

While a stack uses an engine, `engine-podman.json` or `engine-docker.json` in its tasks' folder names the engine's
command and the images that it pulled. Containers are found by their label, and volumes by their name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow_fargate import atomic_files
from mlflow_fargate.local.container.container_engine import ContainerEngine, EngineFailed
from mlflow_fargate.local.container.engine_task import quietly, remove
from mlflow_fargate.local.container.run_arguments import EngineTraits

logger = logging.getLogger(__name__)

FOLDERS = "containers"  # one for each that runs
LABEL = "mlflow-fargate.stack"


def write_record(engine: ContainerEngine, state: Path, images: Iterable[str]) -> None:
    """Adds the images to the engine's record, which also keeps those that could not be removed before."""
    file = state / f"engine-{engine.name}.json"
    known = _read_record(file).get("images", ())
    record = {"command": engine.command, "images": list(dict.fromkeys([*known, *images]))}
    atomic_files.write(file, json.dumps(record), mode=0o600)


def remove_leftovers(state: Path) -> None:
    """Removes the containers and images that a stack with this folder for its tasks left in any engine."""
    for file in sorted(state.glob("engine-*.json")):
        if record := _read_record(file):
            traits = EngineTraits(is_podman=file.stem == "engine-podman", cpus=1)
            engine = ContainerEngine(tuple(record["command"]), traits)
            try:
                _remove_containers(engine, state)
            except EngineFailed as error:  # the record stays: the engine may work again at the next start
                logger.warning("containers of an earlier stack cannot be removed: %s", error)
                continue
            for image in record["images"]:
                quietly(engine, "rmi", image)
            file.unlink(missing_ok=True)  # `local down` and a stack that stops can both do this
    shutil.rmtree(state / FOLDERS, ignore_errors=True)


def remove_volumes(engine: ContainerEngine, prefix: str) -> None:
    found = engine.call("volume", "ls", "--quiet", "--filter", f"name={prefix}").split()
    if found:
        quietly(engine, "volume", "rm", "--force", *found)


def label_of(state: Path) -> str:
    """Returns the label's value: what identifies the stack with this folder, also after a restart."""
    return hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:16]


def volumes_of(state: Path) -> str:
    """Returns what the names of all volumes of the stack with this folder begin with."""
    return f"mlflow-fargate-{label_of(state)}"


def _remove_containers(engine: ContainerEngine, state: Path) -> None:
    if found := _containers_of(engine, state):
        logger.info("removing %s containers that an earlier stack left behind", len(found))
        remove(engine, *found)
        if left := _containers_of(engine, state):
            raise EngineFailed(f"{len(left)} of {len(found)} are still there")
    remove_volumes(engine, volumes_of(state))


def _containers_of(engine: ContainerEngine, state: Path) -> list[str]:
    return engine.call("ps", "--all", "--quiet", "--filter", f"label={LABEL}={label_of(state)}").split()


def _read_record(file: Path) -> dict[str, Any]:
    """Returns the record; empty if there is none."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
