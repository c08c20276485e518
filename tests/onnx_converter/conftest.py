"""The scripts import each other and the service's modules by plain name, as they do in the process that converts."""

from __future__ import annotations

import sys

from mlflow_fargate.bento import template_folder
from mlflow_fargate.sandbox.onnx_conversion import converter_folder

sys.path[:0] = [str(converter_folder()), str(template_folder())]
