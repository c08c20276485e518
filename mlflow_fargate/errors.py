"""The errors that users see; each says what failed, why, and what to do.

FargateError                 every expected error; the message is for the user
├── InvalidOption            an invalid name, option or URI
├── DeploymentExists         create: the name is taken
├── DeploymentNotFound       update, get or predict: no such deployment
├── DeploymentInUse          delete: the deployment still has variants
├── EndpointNotFound         no such endpoint
├── EndpointInUse            the endpoint still has deployments, or ECS is shifting the traffic of one
├── ModelNotFound            the model URI resolves to nothing
├── ModelUnusable            the model exists, but cannot be served as requested
│   └── UntrustedSource      its files are on a server that is not trusted
├── ImageError               the image could not be built
├── DiskFull                 this machine's disk is full
├── SmokeTestFailed          the service does not answer on this machine, so it was not deployed
├── RegistryError            the OCI registry refused a request or sent inconsistent data
├── AwsError                 AWS refused a call, or could not be reached; has the operation and the code
├── ForeignResource          the name is taken by a resource that mlflow-fargate did not create
├── RolloutFailed            ECS gave up on the new tasks (and rolled back)
├── RolloutReplaced          another command changed the deployment while its rollout was watched
├── RolloutTimeout           the rollout did not finish in time; it continues in ECS
├── PredictionFailed         the deployed model answered with an error
│   └── PredictionTimeout    … or did not answer in time
├── NotSupported             an MLflow command that this plugin does not support
├── ToolMissing              a required program is not installed
└── LocalStackError          the local stack (`fargate:/local`) failed or is not running

Command lines omit the traceback for `click.ClickException`. Where MLflow or training code calls this package, errors
are also `MlflowException` (mlflow_errors.py). Bugs raise other exceptions, with a traceback.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import click


def visible(text: str) -> str:
    """Returns `text` without colors, and with control characters escaped, except line breaks.

    Terminals show names, requirements and logs of others, which could otherwise move the cursor or hide what follows.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in plain)


class FargateError(click.ClickException):
    """An error shown to the user: one sentence with the user's own names in it, and `hint`, what to try next.

    `error_code` is one of MLflow's names for kinds of errors (mlflow/protos/databricks.proto).
    """

    error_code = "INTERNAL_ERROR"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(visible(f"{message}\n  hint: {hint}" if hint else message))
        self.hint = hint


class InvalidOption(FargateError):
    error_code = "INVALID_PARAMETER_VALUE"


class DeploymentExists(FargateError):
    error_code = "RESOURCE_ALREADY_EXISTS"


class DeploymentNotFound(FargateError):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class DeploymentInUse(FargateError):
    error_code = "INVALID_STATE"


class EndpointNotFound(FargateError):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class EndpointInUse(FargateError):
    error_code = "INVALID_STATE"


class ModelNotFound(FargateError):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class ModelUnusable(FargateError):
    error_code = "INVALID_PARAMETER_VALUE"


class UntrustedSource(ModelUnusable):
    pass


class ImageError(FargateError):
    pass


class DiskFull(FargateError):
    pass


class SmokeTestFailed(FargateError):
    error_code = "INVALID_STATE"


class RegistryError(FargateError):
    error_code = "TEMPORARILY_UNAVAILABLE"


class AwsError(FargateError):
    """AWS refused `operation` with `code`; the message contains the service's own message.

    `meaning` classifies it: transient, conflict, absent, user, quota or unknown (aws/error_table.py).
    """

    def __init__(
        self, message: str, *, operation: str, code: str, hint: str | None = None, meaning: str = "unknown"
    ) -> None:
        if code.startswith(("AccessDenied", "UnauthorizedOperation")):
            self.error_code = "PERMISSION_DENIED"
        super().__init__(message, hint=hint)
        self.operation = operation
        self.code = code
        self.meaning = meaning


class ForeignResource(FargateError):
    error_code = "RESOURCE_CONFLICT"


class RolloutFailed(FargateError):
    pass


class RolloutReplaced(FargateError):
    error_code = "RESOURCE_CONFLICT"


class RolloutTimeout(FargateError):
    error_code = "DEADLINE_EXCEEDED"


class PredictionFailed(FargateError):
    """`status`: of the HTTP response, if there was one; `is_late`: a prediction may have been computed for a while."""

    error_code = "INTERNAL_ERROR"

    def __init__(
        self, message: str, *, hint: str | None = None, status: int | None = None, is_late: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.is_late = is_late


class PredictionTimeout(PredictionFailed):
    error_code = "DEADLINE_EXCEEDED"


class NotSupported(FargateError):
    error_code = "NOT_IMPLEMENTED"


class ToolMissing(FargateError):
    error_code = "INVALID_STATE"


class LocalStackError(FargateError):
    error_code = "INVALID_STATE"


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Returns "did you mean 'churn'?" for the known names close to `name`; None if there are none."""
    close = [repr(one) for one in difflib.get_close_matches(name, list(known), n=3)]
    return f"did you mean {' or '.join(', '.join(close).rsplit(', ', 1))}?" if close else None
