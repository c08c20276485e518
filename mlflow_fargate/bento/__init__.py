"""A resolved model becomes a Bento: the folder `service_template/`, told which model it serves, built by BentoML.

description           which template serves a model, and what that is told (pure)
requirements          what the image must install for it (pure)
build                 the Bento that BentoML makes of both
custom_service_files  a user's own service.py with what lies beside it
"""

from __future__ import annotations

from mlflow_fargate.bento.build import Bento, build_bento, template_digest, template_folder
from mlflow_fargate.bento.custom_service_files import CustomService, read_custom_service
from mlflow_fargate.bento.description import choose_template, make_service_description, parse_labels
from mlflow_fargate.bento.requirements import onnx_requirements, service_requirements

__all__ = [
    "Bento",
    "CustomService",
    "build_bento",
    "choose_template",
    "make_service_description",
    "onnx_requirements",
    "parse_labels",
    "read_custom_service",
    "service_requirements",
    "template_digest",
    "template_folder",
]
