"""What of a model runs on this machine, because whoever deploys it asked for that: a model is code.

smoke_test        does its service answer, before it is deployed
onnx_conversion   does it answer the same as an ONNX model
process           where either happens
"""

from __future__ import annotations

from mlflow_fargate.sandbox.onnx_conversion import RUNTIME, Conversion, convert_model, converter_requirements
from mlflow_fargate.sandbox.smoke_test import run_smoke_test

__all__ = ["RUNTIME", "Conversion", "convert_model", "converter_requirements", "run_smoke_test"]
