"""Words: every option of a deployment, declared once and in groups; help, docs and JSON schema are written from that.

option              how an option is declared
*_options           the groups: task, service, rollout, scaling, serving, endpoint, image, and those of a call
deployment_config   all of them, parsed from a call
deletion_options    what a deletion leaves, where it is told to
describe            all of them in words, and as a JSON schema
"""

from __future__ import annotations

from mlflow_fargate.config.deletion_options import parse_retain
from mlflow_fargate.config.deployment_config import (
    OF_THE_CALL,
    OF_THE_IMAGE,
    OF_THE_SERVICE,
    DeploymentConfig,
    NamedOptions,
    parse_config,
    read_config,
)
from mlflow_fargate.config.task_options import FARGATE_SIZES

__all__ = [
    "FARGATE_SIZES",
    "OF_THE_CALL",
    "OF_THE_IMAGE",
    "OF_THE_SERVICE",
    "DeploymentConfig",
    "NamedOptions",
    "parse_config",
    "parse_retain",
    "read_config",
]
