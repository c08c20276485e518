"""The figures: stored as JSON with the other work files, and written as tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.earlier_release import BEFORE
from benchmarks.images.bed import LARGE_BYTES
from benchmarks.images.measure import Cost

_TITLES = {
    "ours": "mlflow-fargate",
    "ours-before": f"mlflow-fargate at {BEFORE}",
    "dockerfile": "best Dockerfile, buildah",
    "dockerfile-cache": "best Dockerfile, buildah, registry cache",
    "bentoml": "bentoml containerize, buildah",
    "mlflow": "mlflow models generate-dockerfile, buildah",
    "floor": "floor: `tar \\| zstd \\| PUT`",
    "large": "mlflow-fargate, model of 4 GB",
    "large-floor": "floor: `tar \\| zstd \\| PUT` of the model of 4 GB",
}
_CASES = {
    "first": "first image",
    "warm": "new model, same machine",
    "cold": "new model, empty machine",
    "large": "new model",
    "again": "unchanged",
}
_INTRODUCTION = """\
Written by `make bench`; medians. CPU seconds are those of the builder (without the registry) and vary less than wall
time on a busy machine. uv's package cache is warm for all builders; pip's (used only by MLflow's Dockerfile) is kept
between runs. The base image is in the same registry; if it were not, its bytes would be added once. *After imports* is
the time in a process that has already imported the plugin, such as the one that trained the model, or the webhook
service. mlflow-fargate and BentoML run from an environment with only this plugin's requirements.
"""
_SECONDS = ("wall_seconds", "after_imports_seconds")
_COLUMNS = ("builder", "case", "runs", "wall s", "after imports s", "CPU s", "sent MB", "received MB", "image MB")


class Results:
    """The runs of each builder and case, stored in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._runs: dict[str, list[dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}

    def forget(self, builder: str) -> None:
        self._runs = {key: runs for key, runs in self._runs.items() if key.split("/")[0] != builder}

    def add(self, builder: str, case: str, cost: Cost, *, image_bytes: int) -> None:
        figures = asdict(cost)
        said: dict[str, float] = figures.pop("said")
        run = {**said, **figures, "image_bytes": image_bytes}
        self._runs.setdefault(f"{builder}/{case}", []).append(run)
        self._path.write_text(json.dumps(self._runs, indent=1))

    def text(self, machine: str) -> str:
        """Returns the section: the machine, one row per case, and the targets."""
        parts = [_INTRODUCTION, f"{machine}\n", self._table(), "## Compared with the targets\n", self._targets()]
        return "\n".join(parts)

    def before_and_after(self, machine: str, load: float) -> str:
        """Returns the section on the first image, and that of an earlier commit."""
        places = {f"mlflow-fargate at {BEFORE}": "ours-before/first", "mlflow-fargate": "ours/first"}
        lines = [_row("", "runs", "wall s", "CPU s"), "|---|---:|---:|---:|"]
        for title, place in places.items():
            figures = [_number(self._figure(place, key)) for key in ("wall_seconds", "cpu_seconds")]
            lines.append(_row(title, str(len(self._runs.get(place, ()))), *figures))
        keys = ("wall_seconds", "cpu_seconds")
        ratios = [_number(self._quotient("ours/first", key, "ours-before/first", key), 2) for key in keys]
        lines.append(_row("ratio; the goal is 0.75 of the wall time", "", *ratios))
        what = (
            "Written by `make bench ONLY=ours,ours-before`; medians, the builder alone, without the smoke test. "
            "Installing, compiling and compressing the packages takes nearly all of the CPU seconds, in both; half of "
            "these seconds is the least that two cores need."
        )
        return f"{what}\n\n{machine} Load when it ended: {load:.1f}.\n\n" + "\n".join(lines)

    def _table(self) -> str:
        lines = [_row(*_COLUMNS), f"|---|---|{'---:|' * (len(_COLUMNS) - 2)}"]
        for builder, title in _TITLES.items():
            for case, words in _CASES.items():
                place = f"{builder}/{case}"
                if runs := self._runs.get(place):
                    seconds = (self._figure(place, key) for key in (*_SECONDS, "cpu_seconds"))
                    sizes = (self._figure(place, key) for key in ("sent_bytes", "received_bytes", "image_bytes"))
                    figures = (*seconds, *(size and size / 1e6 for size in sizes))
                    lines.append(_row(title, words, str(len(runs)), *map(_number, figures)))
        return "\n".join(lines) + "\n"

    def _targets(self) -> str:
        lines = [_row("what", "measured", "after imports", "target"), "|---|---:|---:|---:|"]
        for what, other, ours, target in _SPEED_TARGETS:
            measured, after = (self._quotient(other, "wall_seconds", ours, key) for key in _SECONDS)
            lines.append(_row(what, _number(measured), _number(after), target))
        for what, ours, floor, target in _FLOOR_TARGETS:
            measured, after = (self._quotient(ours, key, floor, "wall_seconds") for key in _SECONDS)
            lines.append(_row(what, _number(measured), _number(after), target))
        sent = self._quotient("ours/warm", "sent_bytes", "floor/warm", "sent_bytes")
        lines.append(_row("new model: bytes sent / the floor's", _number(sent, 3), "", "≤ 1.02"))
        for other in ("bentoml", "mlflow", "dockerfile"):
            size = self._quotient(f"{other}/first", "image_bytes", "ours/first", "image_bytes")
            lines.append(_row(f"size of the image: {_TITLES[other]} / mlflow-fargate's", _number(size), "", ""))
        return "\n".join([*lines, *self._targets_of_a_large_model()]) + "\n"

    def _targets_of_a_large_model(self) -> list[str]:
        wall, after = ([self._figure(place, key) for place in ("large/large", "large/again")] for key in _SECONDS)
        rate = LARGE_BYTES / 1e6
        floor = self._figure("large-floor/large", "wall_seconds")
        peak, requests = self._figure("large/large", "peak_rss_bytes"), self._figure("large/again", "requests")
        ratios = [_number(floor and seconds and floor / seconds, 2) for seconds in (wall[0], after[0])]
        rates = [_number(seconds and rate / seconds, 0) for seconds in (wall[0], after[0])]
        return [
            _row("model of 4 GB: peak memory, MB", _number(peak and peak / 1e6, 0), "", "≤ 250"),
            _row("model of 4 GB: MB/s", *rates, ""),
            _row("model of 4 GB: throughput / the floor's", *ratios, "≥ 0.8"),
            _row("model of 4 GB, unchanged: seconds", _number(wall[1], 2), _number(after[1], 2), "< 2"),
            _row(
                "model of 4 GB, unchanged: requests (S3 for names and ETags; registry: HEAD)",
                _number(requests, 0),
                "",
                "",
            ),
        ]

    def _figure(self, place: str, key: str) -> float | None:
        """Returns the median of the measurements; None if there are none."""
        values = [run[key] for run in self._runs.get(place, ()) if run.get(key)]
        return median(values) if values else None

    def _quotient(self, place: str, key: str, other_place: str, other_key: str) -> float | None:
        value, other = self._figure(place, key), self._figure(other_place, other_key)
        return value / other if value and other else None


# Compared: the other builder / mlflow-fargate, in wall time.
_SPEED_TARGETS = (
    ("first image: BentoML's time / mlflow-fargate's", "bentoml/first", "ours/first", "≥ 5"),
    ("first image: best Dockerfile's time / mlflow-fargate's", "dockerfile/first", "ours/first", ""),
    ("first image: MLflow's time / mlflow-fargate's", "mlflow/first", "ours/first", ""),
    (f"first image: mlflow-fargate's time / that at {BEFORE}", "ours/first", "ours-before/first", "≤ 0.75"),
    ("new model: BentoML's time, warm / mlflow-fargate's", "bentoml/warm", "ours/warm", "≥ 8"),
    ("new model: best Dockerfile's time, warm / mlflow-fargate's", "dockerfile/warm", "ours/warm", "≥ 2"),
    ("new model: MLflow's time, warm / mlflow-fargate's", "mlflow/warm", "ours/warm", ""),
    ("new model, empty machine: BentoML's time / mlflow-fargate's", "bentoml/cold", "ours/cold", "≥ 80"),
    ("new model, empty machine: best Dockerfile's time / mlflow-fargate's", "dockerfile/cold", "ours/cold", "≥ 80"),
    (
        "new model, empty machine: Dockerfile's with a registry cache / mlflow-fargate's",
        "dockerfile-cache/cold",
        "ours/cold",
        "≥ 25",
    ),
)
# mlflow-fargate / the floor.
_FLOOR_TARGETS = (
    ("first image: mlflow-fargate's time / the floor's", "ours/first", "floor/first", "≤ 1.5"),
    ("new model: mlflow-fargate's time / the floor's", "ours/warm", "floor/warm", "≤ 1.5"),
)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
