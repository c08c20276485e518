"""Measure, and write benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.images import builders
from benchmarks.images.bed import Bed, machine, make_bed
from benchmarks.images.measure import run
from benchmarks.images.results import Results
from benchmarks.results_page import write_section

BUILDERS: dict[str, Callable[[Bed, str], builders.Builder]] = {
    "ours": builders.Ours,
    "ours-before": builders.OursBefore,
    "floor": builders.Floor,
    "dockerfile": builders.Dockerfile,
    "dockerfile-cache": partial(builders.Dockerfile, registry_cache=True),
    "bentoml": builders.BentoML,
    "mlflow": builders.MLflow,
    "large": builders.Large,
    "large-floor": builders.LargeFloor,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of {','.join(BUILDERS)}, separated by commas; default: all")
    parser.add_argument("--rounds", type=int, default=1, help="how often; builders take turns")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where; needs about 35 GB")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(BUILDERS)
    if unknown := set(names) - set(BUILDERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BUILDERS)}")
    if {"bentoml", "dockerfile", "dockerfile-cache", "mlflow"} & set(names) and not shutil.which("buildah"):
        parser.error(
            "buildah is not installed (apt-get install buildah); --only ours,floor,large,large-floor needs none"
        )
    work = options.work.resolve()
    with make_bed(work) as bed:
        results = Results(work / "results.json")
        for name in names:
            results.forget(name)
        for number in range(options.rounds):
            for name in names:
                _measure(bed, name, number, results)
                if set(names) != {"ours", "ours-before"}:  # which are one comparison
                    write_section("Images", results.text(machine()))
                if "ours-before" in names:
                    write_section("First image", results.before_and_after(machine(), os.getloadavg()[0]))


def _measure(bed: Bed, name: str, number: int, results: Results) -> None:
    builder = BUILDERS[name](bed, f"{name}-{number}")
    builder.forget()
    for version, case in enumerate(builder.cases(), start=1):
        if case == "cold":
            builder.forget()
        script = builder.script(case, bed.model(version))
        log = bed.work / f"{name}.log"
        cost = run(script, environment=builder.environment(), log=log, proxy=bed.proxy)
        results.add(name, case, cost, image_bytes=bed.image_bytes(builder.repository, case))
        print(f"{name} {case}: {cost.wall_seconds:.1f} s, {cost.cpu_seconds:.1f} CPU s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
