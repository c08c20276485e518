"""A resolved model becomes a Bento: the folder `service_template/`, told which model it serves, built by BentoML.

build        how a model is served, what the image needs for it, and the Bento that BentoML makes of that
own_files    a user's own service.py with what lies beside it
"""

from __future__ import annotations

from mlflow_fargate.bento.build import (
    Bento,
    build_bento,
    choose_template,
    make_service_description,
    onnx_requirements,
    parse_labels,
    service_requirements,
    template_digest,
    template_folder,
)
from mlflow_fargate.bento.own_files import OwnService, read_own_service

__all__ = [
    "Bento",
    "OwnService",
    "build_bento",
    "choose_template",
    "make_service_description",
    "onnx_requirements",
    "parse_labels",
    "read_own_service",
    "service_requirements",
    "template_digest",
    "template_folder",
]
