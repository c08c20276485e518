"""What can go wrong, as a tree; each error says where, what was said, and what to do.

FargateError                 anything we understood; the message is for the user
├── InvalidOption            a name, option or URI that cannot be meant
├── DeploymentExists         create on a name that is taken
├── DeploymentNotFound       update, get or predict on a name that is not there
├── EndpointNotFound         the same for an endpoint
├── EndpointInUse            delete-endpoint while deployments live on it
├── ModelNotFound            the model URI leads nowhere
├── ModelUnusable            the model is there, but cannot be served as asked
│   └── UntrustedSource        it is at a place that gets no request from here
├── ImageError               the image could not be made
├── DiskFull                 there is no room on this machine
├── SmokeTestFailed              the service does not answer on this machine, so it was not deployed
├── RegistryError            the OCI registry refused or lied
├── AwsError                 AWS said no: operation and code are kept
├── ForeignResource          the name is taken by something that is not ours
├── RolloutFailed            ECS gave up on the new tasks (and went back to the old ones)
├── RolloutTimeout           not finished in time; it goes on
├── PredictionFailed         the deployed model answered with an error
│   └── PredictionTimeout    … or not in time
├── NotSupported             MLflow has a verb for it, and this deployment cannot do it
├── ToolMissing              a program that is not ours is wanted, and not installed
└── LocalStackError          the small AWS on this machine

Both parents matter: MLflow's callers look for `MlflowException` and its error codes, and MLflow's command line prints
only `click.ClickException` without a traceback. A bug is none of these: its traceback should be seen.
"""

from __future__ import annotations

import click
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    NOT_IMPLEMENTED,
    PERMISSION_DENIED,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_CONFLICT,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)


class FargateError(MlflowException, click.ClickException):  # type: ignore[misc]  # mlflow ships no types
    """An error for the user: one sentence with their own names in it, then `hint`, the one honest thing to try."""

    mlflow_error_code: int = INTERNAL_ERROR

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        text = f"{message}\n  hint: {hint}" if hint else message
        MlflowException.__init__(self, text, error_code=self.mlflow_error_code)
        click.ClickException.__init__(self, text)
        self.hint = hint


class InvalidOption(FargateError):
    mlflow_error_code = INVALID_PARAMETER_VALUE


class DeploymentExists(FargateError):
    mlflow_error_code = RESOURCE_ALREADY_EXISTS


class DeploymentNotFound(FargateError):
    mlflow_error_code = RESOURCE_DOES_NOT_EXIST


class EndpointNotFound(FargateError):
    mlflow_error_code = RESOURCE_DOES_NOT_EXIST


class EndpointInUse(FargateError):
    mlflow_error_code = INVALID_STATE


class ModelNotFound(FargateError):
    mlflow_error_code = RESOURCE_DOES_NOT_EXIST


class ModelUnusable(FargateError):
    mlflow_error_code = INVALID_PARAMETER_VALUE


class UntrustedSource(ModelUnusable):
    pass


class ImageError(FargateError):
    pass


class DiskFull(FargateError):
    pass


class SmokeTestFailed(FargateError):
    mlflow_error_code = INVALID_STATE


class RegistryError(FargateError):
    mlflow_error_code = TEMPORARILY_UNAVAILABLE


class AwsError(FargateError):
    """AWS refused `operation` with `code`; the service's own words stand in the message.

    `meaning` says what that is: transient, conflict, absent, user, quota or unknown (aws/error_table.py).
    """

    def __init__(
        self, message: str, *, operation: str, code: str, hint: str | None = None, meaning: str = "unknown"
    ) -> None:
        if code.startswith(("AccessDenied", "UnauthorizedOperation")):
            self.mlflow_error_code = PERMISSION_DENIED
        super().__init__(message, hint=hint)
        self.operation = operation
        self.code = code
        self.meaning = meaning


class ForeignResource(FargateError):
    mlflow_error_code = RESOURCE_CONFLICT


class RolloutFailed(FargateError):
    pass


class RolloutTimeout(FargateError):
    mlflow_error_code = DEADLINE_EXCEEDED


class PredictionFailed(FargateError):
    mlflow_error_code = INTERNAL_ERROR


class PredictionTimeout(PredictionFailed):
    mlflow_error_code = DEADLINE_EXCEEDED


class NotSupported(FargateError):
    mlflow_error_code = NOT_IMPLEMENTED


class ToolMissing(FargateError):
    mlflow_error_code = INVALID_STATE


class LocalStackError(FargateError):
    mlflow_error_code = INVALID_STATE
