"""The smoke test of a model's image: the service must respond on this machine before anything is deployed."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.image import SmokeTest, Unpacked, find_interpreter
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.inputs import ImageInputs, python_of
from mlflow_fargate.sandbox import hides_home, run_smoke_test


def make_smoke_test(inputs: ImageInputs, config: DeploymentConfig, progress: Progress) -> SmokeTest | None:
    """Returns the smoke test; None, after a note with the reason, if it cannot run on this machine."""
    interpreter = find_interpreter(python_of(inputs.model))
    reason = ""
    if sys.platform != "linux" or platform.machine() != inputs.platform.machine:
        reason = f"the image is for {inputs.platform}; this machine is {platform.system()} on {platform.machine()}"
    elif interpreter is None:
        reason = f"Python {python_of(inputs.model)} is not installed here"
    elif config.secrets:
        reason = "the service may need its secrets, which only ECS can read"
    elif inputs.builder != "layers":
        reason = f"the image is built by {inputs.builder}"
    if reason or interpreter is None:
        progress.note(f"smoke test skipped: {reason}")
        return None

    def smoke_test(unpacked: Unpacked, environment: Mapping[str, str]) -> None:
        seen = "your credentials and home folder" if hides_home() else "your credentials, but with your home folder"
        progress.note(f"smoke-testing the service on this machine without {seen} (skip with smoke_test=false)")
        with progress.waiting("waiting for the service to be ready"):
            outcome = run_smoke_test(
                unpacked.entry_point,
                working_directory=unpacked.working_directory,
                environment={**environment, **config.environment},
                interpreter=interpreter,
                log=unpacked.log,
            )
        answered = "".join(f", and {path} answered its example" for path in outcome.answered)
        progress.note(f"smoke test passed: the service was ready after {outcome.seconds:.0f} s{answered}")

    return smoke_test
