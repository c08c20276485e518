"""Measures the CPU seconds of commands, beside those of the libraries that they need, and of an earlier release.

    PYTHONPATH=tests python -m benchmarks.commands        (make bench-commands)

Each command runs as a process of its own, against the AWS of the local stack with one deployment. The earlier release
is its commit below build/. Writes a table to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from benchmarks.earlier_release import BEFORE, earlier_release
from benchmarks.results_page import find_processor, write_section
from mlflow_fargate.local.registry.server import LocalRegistry
from support.deployer import create, make_deployer
from support.local_aws import running_aws
from support.registry import pusher

RUNS = 3
ROOT = Path(__file__).parent.parent
# What every command imports, and what calls AWS and prints a table.
_BASE = "import click, rich.console, rich.table, rich.progress, platformdirs"
_AWS = f"{_BASE}, boto3, stamina, pydantic, yaml; boto3.Session(region_name='us-east-1').client('ecs')"
_LIBRARIES = {"of `--help`": _BASE, "of a call to AWS": _AWS}
_NAME = "-t fargate:/us-east-1 --name churn"
_COMMANDS = {
    "--help": "of `--help`",
    "local status": "of `--help`",
    "cache size": "of `--help`",
    "list -t fargate:/us-east-1": "of a call to AWS",
    f"status {_NAME}": "of a call to AWS",
    f"logs {_NAME}": "of a call to AWS",
    f"events {_NAME}": "of a call to AWS",
    f"history {_NAME}": "of a call to AWS",
    f"scale {_NAME} 1": "of a call to AWS",
}


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        LocalRegistry(Path(name) / "registry", password=None) as registry,
        running_aws(Path(name) / "aws", registry=registry) as aws,
    ):
        deployer = make_deployer(aws.url, pusher(registry)())
        create(deployer)
        keys = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
        cache = {"MLFLOW_FARGATE_CACHE": f"{name}/cache", "AWS_ENDPOINT_URL": aws.url}
        lines = measure({**os.environ, **keys, **cache})
        deployer.delete("churn")
    what = (
        f"Written by `make bench-commands` on {date.today()}: CPU seconds of a process, medians of {RUNS} runs. "
        f"Before: commit {BEFORE}. The goal is twice the libraries alone."
    )
    where = f"{find_processor()}; Python {sys.version.split()[0]}. Load when it ended: {os.getloadavg()[0]:.1f}."
    write_section("Commands", f"{what}\n\n{where}\n\n" + "\n".join(lines))


def measure(environment: Mapping[str, str]) -> list[str]:
    """Returns the table, in Markdown."""
    libraries = {name: cpu([sys.executable, "-c", code], ROOT, environment) for name, code in _LIBRARIES.items()}
    lines = ["| command | CPU s | before | libraries alone | ratio |", "|---|---:|---:|---:|---:|"]
    for command, needed in _COMMANDS.items():
        program = [sys.executable, "-m", "mlflow_fargate.cli", *command.split()]
        now, before = cpu(program, ROOT, environment), cpu(program, earlier_release(), environment)
        alone = libraries[needed]
        assert now and alone
        shown = f"{before:.2f}" if before else "-"
        lines.append(f"| `{command.split(' -t')[0]}` | {now:.2f} | {shown} | {alone:.2f} | {now / alone:.1f} |")
        print(lines[-1], flush=True)
    return lines


def cpu(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> float | None:
    """Returns the median of the CPU seconds; None if the release has no such command. Modules are compiled before."""
    compiled = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled.pop("PYTHONPATH", None)
    seconds = []
    for _ in range(RUNS + 1):
        process = subprocess.Popen(
            command, cwd=folder, env=compiled, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if "No such command" in said:
            return None
        if process.returncode and "local" not in command:
            raise SystemExit(f"{' '.join(command)}: {said[-2000:]}")
        seconds.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
