"""Queries the model at argv[1] with a table of argv[2] rows of 1 kB; prints by how many MB memory grew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from mlflow_fargate.scoring import score


def memory(what: str) -> int:
    """Returns MB: VmRSS, the current memory, or VmHWM, its peak. Source: man proc_pid_status."""
    found = re.search(rf"{what}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) // 1000


url, rows = sys.argv[1], int(sys.argv[2])
table = pd.DataFrame({"text": [f"{number:01000d}" for number in range(rows)]})
score(url, table.head(1))  # loads what is needed only once
Path("/proc/self/clear_refs").write_text("5")  # resets the peak
before = memory("VmRSS")
score(url, table)
print(memory("VmHWM") - before)
