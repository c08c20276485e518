"""Runs a model's code on this machine, because the user asked for it: a model is code.

smoke_test        whether its service responds, before it is deployed
onnx_conversion   whether an ONNX version of it gives the same predictions
process           the isolated process that both run in
"""

from __future__ import annotations

from mlflow_fargate.sandbox.onnx_conversion import RUNTIME, Conversion, convert_model, converter_requirements
from mlflow_fargate.sandbox.process import hides_home
from mlflow_fargate.sandbox.smoke_test import run_smoke_test

__all__ = ["RUNTIME", "Conversion", "convert_model", "converter_requirements", "hides_home", "run_smoke_test"]
