"""Selects the library that converts a model: maintained ones of the ONNX project or its users.

    tensorflow, keras    tf2onnx        sklearn              skl2onnx
    xgboost, lightgbm    onnxmltools

Their requirements are in mlflow_fargate/sandbox/onnx_conversion.py, because they are installed before this runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fargate_service.models.onnx_answer import AnswerForm

INPUT = "rows"
# Old enough for every onnxruntime with wheels for the supported Pythons, new enough for current layers.
_OPSET = 18
_SCALARS = {"float", "double", "integer", "long"}


@dataclass(frozen=True)
class Candidate:
    """One way to convert a model."""

    model: Callable[[], bytes]
    form: AnswerForm = AnswerForm()  # noqa: RUF009  # frozen, too


def convert_network(function: Any) -> Iterator[Candidate]:
    """Yields conversions of a `TensorFunction` of keras_loading."""

    def convert() -> bytes:
        import tensorflow as tf  # noqa: PLC0415
        import tf2onnx  # noqa: PLC0415

        spec = tf.TensorSpec(function.spec.shape, function.spec.dtype, name=INPUT)
        graph = tf.function(function.call, input_signature=[spec])
        model, _ = tf2onnx.convert.from_function(graph, input_signature=[spec], opset=_OPSET)
        return model.SerializeToString()  # type: ignore[no-any-return]

    yield Candidate(_once(convert))


def convert_table_model(
    model: Any, flavors: Mapping[str, Any], columns: Sequence[Mapping[str, Any]]
) -> Iterator[Candidate]:
    """Yields conversions of a model that takes tables; `columns` are its signature's, or one tensor of numbers."""
    if "sklearn" in flavors:
        yield from _convert_sklearn(model, columns)
    elif "xgboost" in flavors:
        yield Candidate(_once(partial(_convert_xgboost, model, _width(columns))))
    elif "lightgbm" in flavors:
        yield Candidate(_once(partial(_convert_lightgbm, model, _width(columns))))


def _convert_sklearn(model: Any, columns: Sequence[Mapping[str, Any]]) -> Iterator[Candidate]:
    """Tries double precision first, which the library uses but some of its converters do not support."""
    from skl2onnx.common import data_types as types  # noqa: PLC0415

    precisions = (types.DoubleTensorType, types.FloatTensorType)
    if all(one.get("type", "tensor") in {*_SCALARS, "tensor"} for one in columns):
        for precision in precisions:
            yield Candidate(_once(partial(_run_skl2onnx, model, [(INPUT, precision([None, _width(columns)]))])))
    if any("type" not in one for one in columns):
        return
    names = tuple(str(one["name"]) for one in columns)
    for precision in precisions:
        kinds = {
            "string": types.StringTensorType,
            "boolean": types.BooleanTensorType,
            "integer": types.Int64TensorType,
            "long": types.Int64TensorType,
        }
        inputs = [(str(one["name"]), kinds.get(str(one["type"]), precision)([None, 1])) for one in columns]
        yield Candidate(_once(partial(_run_skl2onnx, model, inputs)), AnswerForm(columns=names))


def _run_skl2onnx(model: Any, inputs: list[tuple[str, Any]]) -> bytes:
    from skl2onnx import convert_sklearn  # noqa: PLC0415

    # Scores as an array instead of a list of dicts by class.
    options = {"zipmap": False} if hasattr(model, "classes_") else None
    converted = convert_sklearn(model, initial_types=inputs, options=options, target_opset=_OPSET)
    return converted.SerializeToString()  # type: ignore[no-any-return]


def _convert_xgboost(model: Any, width: int) -> bytes:
    from onnxmltools import convert_xgboost  # noqa: PLC0415
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    # The converter only supports numbered columns.
    nameless = copy.deepcopy(model)
    booster = nameless.get_booster() if hasattr(nameless, "get_booster") else nameless
    booster.feature_names = None
    converted = convert_xgboost(nameless, initial_types=[(INPUT, FloatTensorType([None, width]))])
    return converted.SerializeToString()  # type: ignore[no-any-return]


def _convert_lightgbm(model: Any, width: int) -> bytes:
    from onnxmltools import convert_lightgbm  # noqa: PLC0415
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    converted = convert_lightgbm(model, initial_types=[(INPUT, FloatTensorType([None, width]))], zipmap=False)
    return converted.SerializeToString()  # type: ignore[no-any-return]


def _width(columns: Sequence[Mapping[str, Any]]) -> int:
    """Returns how many numbers a row has."""
    spec = columns[0].get("tensor-spec")
    return int(spec["shape"][-1]) if spec else len(columns)


def _once(convert: Callable[[], bytes]) -> Callable[[], bytes]:
    found: list[bytes] = []

    def converted() -> bytes:
        if not found:
            found.append(convert())
        return found[0]

    return converted
