"""What of a model runs on this machine, because whoever deploys it asked for that: a model is code.

service      does its service answer, before it is deployed
conversion   does it answer the same as an ONNX model
room         the process in which either happens
"""

from __future__ import annotations

from mlflow_fargate.sandbox.onnx_conversion import RUNTIME, Conversion, convert_model, converter_requirements
from mlflow_fargate.sandbox.smoke_test import try_service

__all__ = ["RUNTIME", "Conversion", "convert_model", "converter_requirements", "try_service"]
