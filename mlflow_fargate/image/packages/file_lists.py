"""The files of each installed distribution, from its wheel's file list, and the check that no two write the same ones.

Of two distributions that write the same files, the image would have a mixture that depends on the order of its layers.
`twins` knows the common pairs before they are installed; this finds the others.
Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import ImageError


def read_file_lists(site: Path) -> dict[str, dict[str, str]]:
    """Returns distribution → path below `site` → hash."""
    lists: dict[str, dict[str, str]] = {}
    for record in site.glob("*.dist-info/RECORD"):
        name = record.parent.name.partition("-")[0].replace("_", "-").lower()
        with record.open(encoding="utf-8", newline="") as file:
            lists[name] = {row[0]: row[1] for row in csv.reader(file) if row}
    return lists


def save_code(lists: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Saves the modules and libraries of the distributions, for `check_code`."""
    code = {
        name: {file: digest for file, digest in files.items() if file.endswith((".py", ".so"))}
        for name, files in lists.items()
    }
    atomic_files.write(path, json.dumps(code))


def check_code(paths: Iterable[Path]) -> None:
    """Raises ImageError if two of the saved distributions share more than half of their files, and some differ.

    A few are harmless: `__init__.py` of a namespace, or tests that were packed by mistake. So are equal ones: MLflow's
    distributions contain each other. Missing lists, of layers that were built elsewhere, are ignored.
    """
    lists: dict[str, dict[str, str]] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            lists.update(json.loads(path.read_text(encoding="utf-8")))
    for (name, files), (other, others) in combinations(sorted(lists.items()), 2):
        both = files.keys() & others.keys()
        if 2 * len(both) > min(len(files), len(others)) and any(files[file] != others[file] for file in both):
            raise ImageError(
                f"{name} and {other} install the same files (such as {min(both)}) with different contents.",
                hint="an image can have only one of them: change the model's requirements, or see requirements=",
            )
