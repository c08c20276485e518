"""The smoke test of a model's image: its service has to answer on this machine before anything is deployed."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.image import SmokeTest, Unpacked, find_interpreter
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.inputs import ImageInputs, python_of
from mlflow_fargate.sandbox import run_smoke_test


def make_smoke_test(inputs: ImageInputs, config: DeploymentConfig, progress: Progress) -> SmokeTest | None:
    """What tests the service; None, and a note why, where a test on this machine would show nothing."""
    interpreter = find_interpreter(python_of(inputs.model))
    reason = ""
    if sys.platform != "linux" or platform.machine() != inputs.platform.machine:
        reason = f"the image is for {inputs.platform}, this machine is {platform.system()} on {platform.machine()}"
    elif interpreter is None:
        reason = f"there is no Python {python_of(inputs.model)} here"
    elif config.secrets:
        reason = "it may need its secrets, which only ECS reads"
    elif inputs.builder != "layers":
        reason = f"{inputs.builder} makes the image"
    if reason or interpreter is None:
        progress.note(f"the service is not tried on this machine: {reason}")
        return None

    def smoke_test(unpacked: Unpacked, environment: Mapping[str, str]) -> None:
        progress.note("trying the service on this machine (smoke_test=false: not)")
        seconds = run_smoke_test(
            unpacked.entry_point,
            working_directory=unpacked.working_directory,
            environment={**environment, **config.environment},
            interpreter=interpreter,
        )
        progress.note(f"the service was ready after {seconds:.0f} s")

    return smoke_test
