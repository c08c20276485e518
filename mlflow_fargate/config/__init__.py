"""Every option of a deployment, declared once and in groups; help, docs and JSON schema are generated from it.

option              how an option is declared
*_options           the groups: task, service, rollout, scaling, serving, endpoint, image, call
deployment_config   all options, parsed
deletion_options    what a deletion keeps
describe            help texts, the page of options, the JSON schema
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
