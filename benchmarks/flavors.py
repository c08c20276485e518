"""Measures a small model of each flavor: image, start and memory.

    python -m benchmarks.flavors [FLAVOR …]        (make bench-flavors)

Logs the models of tests/support/flavor_models.py, deploys each to a separate local stack, and writes a table to
docs/flavors.md. The figures mean the same as those of benchmarks/runtimes.py. Flavors whose library is not installed,
or that are not named, keep their line of the table.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks.results_page import find_processor
from benchmarks.runtimes import own_layers_bytes, own_stack, task_processes
from tests.support.deployed_services import deployed, log_model, post
from tests.support.flavor_models import LIBRARIES, OPTIONS

PAGE = Path(__file__).parents[1] / "docs" / "flavors.md"
MARK = "<!-- Written by `make bench-flavors`: -->\n"


def main() -> None:
    rows = read_table()
    with tempfile.TemporaryDirectory() as name, own_stack(Path(name) / "cache"):
        for flavor in sys.argv[1:] or LIBRARIES:
            library = LIBRARIES[flavor]
            if library is None or importlib.util.find_spec(library):
                rows[flavor] = measure(flavor)
                print(rows[flavor], flush=True)
                write_table([rows[one] for one in LIBRARIES if one in rows])


def read_table() -> dict[str, str]:
    """Returns the lines of the page's table by flavor."""
    lines = PAGE.read_text(encoding="utf-8").partition(MARK)[2].splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    return {flavor: rows[flavor] for flavor in LIBRARIES if flavor in rows}


def write_table(rows: Sequence[str]) -> None:
    head = "| model | layers without the base, MB | ready, CPU s | memory, MB |\n|---|---:|---:|---:|"
    where = f"{find_processor()}, {os.cpu_count()} CPUs; Python {sys.version.split()[0]}"
    what = f"Measured on {date.today()}: {where}, MLflow {version('mlflow')}, BentoML {version('bentoml')}. "
    what += f"Load when it ended: {os.getloadavg()[0]:.1f}."
    text = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text("\n".join([f"{text}{MARK}\n{head}", *rows, "", what, ""]), encoding="utf-8")


def measure(flavor: str) -> str:
    """Returns a line of the table."""
    name = flavor.replace("_", "-")
    logged = log_model(flavor)
    with deployed(name, logged["uri"], {"cpu": 1024, "memory": 4096, **OPTIONS.get(flavor, {})}) as url:
        cpu_seconds = sum(sum(process.cpu_times()[:2]) for process in task_processes(name))
        for _ in range(20):
            assert post(f"{url}/invocations", logged["request"]).status_code == 200
        memory_mb = sum(process.memory_full_info().pss for process in task_processes(name)) / 1e6
        return f"| {flavor} | {own_layers_bytes(name) / 1e6:.0f} | {cpu_seconds:.1f} | {memory_mb:.0f} |"


if __name__ == "__main__":
    main()
