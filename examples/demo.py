"""The whole cycle on this machine: train, deploy, promote, watch it redeploy, clean up.

    make demo                 or: mlflow-fargate demo

Uses the local stack if it is running; otherwise starts one and stops it at the end. Everything else is what a user
would type: MLflow's command line, the walk-through's client, the webhook service. Exit code 0 if all checks passed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow.deployments import get_deploy_client

from .image_classifier.client import measure_accuracy
from .image_classifier.pictures import read_data, write_pictures
from .inventory import inventory
from .steady_client import SteadyClient

NAME = "digits"
TARGET = "fargate:/local"
# As in the walk-through, where everyone can call the model; the default requires an API key.
# Requests take milliseconds, so old tasks do not need the default 30 s to finish theirs.
OPTIONS = ("-C", "auth=none", "-C", "memory=4096", "-C", "deregistration_delay_seconds=5", "-C", "smoke_test=false")
_REDEPLOY_SECONDS = 600
_STEP = re.compile(r"\[ *[\d.]+s\] {1,2}\S|(?!\[ *[\d.]+s\])\S")


@dataclass(frozen=True)
class Outcome:
    """What the demo measured."""

    accuracy_over_http: float
    accuracy_in_process: float
    requests_during_redeploy: int
    failed_requests: int
    versions: list[str]  # that answered, in order; a version that comes back is listed again
    redeploy_seconds: float
    sent_first: str
    sent_again: str
    left: dict[str, int]

    @property
    def is_good(self) -> bool:
        """True if the answers match those of the training process and no request failed during the redeploy."""
        same = self.accuracy_over_http == self.accuracy_in_process >= 0.95
        return same and self.requests_during_redeploy > 0 and not self.failed_requests and not any(self.left.values())


def headline(text: str, began: float = time.monotonic()) -> None:
    """Prints a headline with the seconds since the start."""
    print(f"\n[{time.monotonic() - began:6.1f}s] {text}", flush=True)


def main(epochs: tuple[int, int] = (6, 8)) -> Outcome:
    """Runs the demo; `epochs` are those of the first and of the second version."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # MLflow warns about stages at each use
    _log().parent.mkdir(parents=True, exist_ok=True)
    _log().write_bytes(b"")
    with tempfile.TemporaryDirectory() as folder, running_stack() as addresses:
        pictures = Path(folder)
        headline("Writing images of handwritten digits, one folder per label")
        write_pictures(pictures)
        headline("Training version 1 and moving it to Production")
        promote(train(pictures / "train", epochs[0]))
        headline("Deploying the model")
        sent_first = deploy()
        url = get_deploy_client(TARGET).get_deployment(NAME)["url"]
        headline("Classifying test images over HTTP and in this process")
        with quietly():
            accuracies = measure_accuracy(url, pictures / "test"), measure_in_process(pictures / "test")
        print(f"accuracy over HTTP {accuracies[0]:.4f}, in process {accuracies[1]:.4f}")
        headline("Training version 2 while the webhook service watches and a client keeps sending requests")
        with webhook_service(), SteadyClient(url, next((pictures / "test").glob("*/*.png"))) as client:
            version, promoted_at = redeploy(pictures / "train", epochs[1])
        seconds = client.first_answers[version] - promoted_at
        print(f"{client.requests} requests, {client.failures} failed")
        print(f"version {version} first responded {seconds:.1f} s after its promotion")
        print(f"versions that responded: {' → '.join(client.versions)} (both during the rollout)")
        headline("Deleting the deployment and creating it again: the repository already has every layer")
        run("mlflow", "deployments", "delete", "-t", TARGET, "--name", NAME)
        sent_again = deploy()
        headline("Looking at the deployment")
        show(url, addresses)
        headline("Cleaning up")
        run("mlflow", "deployments", "delete", "-t", TARGET, "--name", NAME)
        left = inventory()
        print("left in the account, besides the shared endpoint:", ", ".join(f"{n} {what}" for what, n in left.items()))
    return Outcome(
        *accuracies, client.requests, client.failures, client.versions, seconds, sent_first, sent_again, left
    )


@contextlib.contextmanager
def running_stack() -> Iterator[dict[str, str]]:
    """Yields the local stack's addresses and sets them in this process's environment; stops a stack that it started."""
    status = subprocess.run([_command("mlflow-fargate"), "local", "status"], capture_output=True, check=False)
    was_running = status.returncode == 0
    headline(
        "The local stack" + (" is already running" if was_running else ": an AWS emulator, an image registry, MLflow")
    )
    try:
        run("mlflow-fargate", "local", "up", "--detach")
        exports = subprocess.run(
            [_command("mlflow-fargate"), "local", "env"], capture_output=True, check=True, text=True
        ).stdout
        addresses = dict(line.removeprefix("export ").split("=", 1) for line in exports.splitlines())
        os.environ.update(addresses)
        mlflow.set_tracking_uri(addresses["MLFLOW_TRACKING_URI"])
        yield addresses
    finally:
        if not was_running:
            run("mlflow-fargate", "local", "down")


def train(pictures: Path, epochs: int, seed: int = 1) -> str:
    """Trains and registers a version; returns its number."""
    with quietly():
        from .image_classifier.train import train as train_classifier  # noqa: PLC0415  # TensorFlow prints at import

        version = str(train_classifier(pictures, NAME, epochs=epochs, seed=seed).version)
    print(f"version {version} of the model '{NAME}' is registered")
    return version


def promote(version: str) -> None:
    """Moves a version to Production and archives the previous one."""
    client = mlflow.MlflowClient()
    client.transition_model_version_stage(NAME, version, "Production", archive_existing_versions=True)


def deploy() -> str:
    """Deploys the Production version; returns how many bytes of the image were uploaded."""
    model = f"models:/{NAME}/Production"
    said = run("mlflow", "deployments", "create", "-t", TARGET, "--name", NAME, "-m", model, *OPTIONS)
    return next(line.rpartition(", ")[2] for line in said if "image of" in line and line.endswith(" sent"))


def measure_in_process(pictures: Path) -> float:
    """Returns the accuracy of the Production version, loaded in this process by MLflow."""
    model = mlflow.tensorflow.load_model(f"models:/{NAME}/Production")
    inputs, numbers, _ = read_data(pictures)
    return float(np.mean(model.predict(inputs, verbose=0).argmax(axis=1) == numbers))


@contextlib.contextmanager
def webhook_service() -> Iterator[None]:
    """Runs the service that redeploys when a version moves to Production."""
    command = [_command("mlflow-fargate"), "webhook", "serve", "--target", TARGET, "--port", "0", "--poll-seconds", "2"]
    with tempfile.TemporaryFile() as output, _log().open("ab") as log:
        service = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            service.terminate()
            service.wait(30)
            output.seek(0)
            said = output.read()
            log.write(said)
    for line in said.decode().splitlines():
        with contextlib.suppress(ValueError):  # a line of a library
            event = json.loads(line)
            if isinstance(event, dict) and "deployment" in event:
                print(f"  webhook service: {event['message']}")


def redeploy(pictures: Path, epochs: int) -> tuple[str, float]:
    """Trains and promotes a version and waits for its rollout; returns the version and its promotion time."""
    promoted = train(pictures, epochs, seed=2)
    headline(f"Moving version {promoted} to Production, and doing nothing else")
    began = time.monotonic()
    promote(promoted)
    client = get_deploy_client(TARGET)
    while (status := client.get_deployment(NAME))["model_version"] != promoted or status["state"] != "COMPLETED":
        if time.monotonic() - began > _REDEPLOY_SECONDS:
            raise SystemExit(f"version {promoted} was not deployed in time: {status}; see {_log()}")
        time.sleep(0.5)
    return promoted, began


def show(url: str, addresses: dict[str, str]) -> None:
    """Prints what to look at; on a terminal, waits until the user continues."""
    run("mlflow-fargate", "list", "-t", TARGET)
    print(f"\nMLflow:                 {addresses['MLFLOW_TRACKING_URI']}\nthe model's page:        {url}/")
    if sys.stdin.isatty() and not os.environ.get("DEMO_EXIT"):
        input("Open these pages in a browser. Press Enter to continue and clean up. ")


def run(*command: str) -> list[str]:
    """Runs a command, shows the steps of its output, and returns all its lines."""
    print(f"$ {' '.join(command)}", flush=True)
    lines = []
    with subprocess.Popen(
        [_command(command[0]), *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if _STEP.match(line):
                print(f"  {line.rstrip()}", flush=True)
    with _log().open("a") as log:
        log.write("\n".join(("$ " + " ".join(command), *lines, "")))
    if process.returncode:
        print("\n".join(lines))
        raise SystemExit(f"{command[0]} failed with exit code {process.returncode}")
    return lines


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Sends what libraries print to the log. TensorFlow prints from C++, past Python's streams."""
    sys.stdout.flush()
    screen = os.dup(1), os.dup(2)
    with _log().open("a") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        finally:
            for number, saved in enumerate(screen, start=1):
                os.dup2(saved, number)
                os.close(saved)


@functools.cache
def _log() -> Path:
    """The whole output of the commands, the libraries and the webhook service; the screen shows its steps."""
    return Path(_cache()[0]) / "demo.log"


def _cache() -> list[str]:
    """Returns the folder of the cache, its parts, and what they use in total."""
    command = [_command("mlflow-fargate"), "cache", "size"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()


def _command(name: str) -> str:
    """Returns a command's path in the virtual environment that runs this, activated or not."""
    return str(Path(sys.executable).parent / name)


def run_demo() -> int:
    """Runs the demo, prints whether all checks passed, and returns the exit code."""
    outcome = main()
    folder, *_, total = _cache()
    print(
        f"\nKept in {folder}: {total} (layers, models and images; demo.log is the whole output)\n"
        "To free the space:   mlflow-fargate cache clear --local\n"
        "To deploy a model:   mlflow-fargate local up --detach, then examples/README.md"
    )
    headline("All checks passed" if outcome.is_good else f"Some checks failed: {outcome}")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    sys.exit(run_demo())
