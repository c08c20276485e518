"""Packages a resolved model as a Bento: `service_template/` and a description of the model, built by BentoML.

description    which template serves a model, and the contents of service.json (pure)
requirements   what the image must install for it (pure)
build          the Bento that BentoML builds from both
custom_service_files    a user's custom service.py and the files next to it
"""

from __future__ import annotations

from mlflow_fargate.bento.build import Bento, build_bento, template_digest
from mlflow_fargate.bento.custom_service_files import CustomService, read_custom_service
from mlflow_fargate.bento.description import ServedModel, choose_template, make_service_description, parse_labels
from mlflow_fargate.bento.requirements import onnx_requirements, replaced_requirements, service_requirements
from mlflow_fargate.page_files import template_folder

__all__ = [
    "Bento",
    "CustomService",
    "ServedModel",
    "build_bento",
    "choose_template",
    "make_service_description",
    "onnx_requirements",
    "parse_labels",
    "read_custom_service",
    "replaced_requirements",
    "service_requirements",
    "template_digest",
    "template_folder",
]
