"""The figures: kept as JSON beside the work, and written as a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.images.measure import Cost

_TITLES = {
    "ours": "mlflow-fargate",
    "import": "of which: `import mlflow.deployments`",
    "dockerfile": "best Dockerfile, buildah",
    "dockerfile-cache": "best Dockerfile, buildah, registry cache",
    "bentoml": "bentoml containerize, buildah",
    "floor": "floor: `tar \\| zstd \\| PUT`",
}
_CASES = {"first": "first image", "warm": "new model, same machine", "cold": "new model, empty machine"}


class Results:
    """Runs of each builder and case, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, list[dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}

    def forget(self, builder: str) -> None:
        self._runs = {key: runs for key, runs in self._runs.items() if key.split("/")[0] != builder}

    def add(self, builder: str, case: str, cost: Cost) -> None:
        self._runs.setdefault(f"{builder}/{case}", []).append(asdict(cost))
        self._path.write_text(json.dumps(self._runs, indent=1))

    def table(self, machine: str) -> str:
        """A row a case, medians of its runs."""
        lines = [
            "Made by `make bench`; medians. CPU seconds are the builder's own (without the registry's), and steadier",
            "than wall time on a busy machine. uv's cache of packages is warm for all",
            "builders. The base image lies in the same registry; where it does not, its bytes come on top, once.",
            "Our rows contain the import of MLflow, whose errors are ours too; a process that deploys from MLflow has",
            "done that by then.",
            "",
            machine,
            "",
            "| builder | case | runs | wall s | CPU s | sent MB | received MB |",
            "|---|---|---:|---:|---:|---:|---:|",
        ]
        for builder, title in _TITLES.items():
            for case, words in _CASES.items():
                if runs := self._runs.get(f"{builder}/{case}"):
                    wall, cpu, sent, received = (
                        median(run[key] for run in runs)
                        for key in ("wall_seconds", "cpu_seconds", "sent_bytes", "received_bytes")
                    )
                    lines.append(
                        f"| {title} | {words} | {len(runs)} | {wall:.1f} | {cpu:.1f} | "
                        f"{sent / 1e6:.1f} | {received / 1e6:.1f} |"
                    )
        return "\n".join(lines) + "\n"
