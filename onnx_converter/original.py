"""Loads the model itself, as its service would, with the inputs to compare and the converters that apply."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from libraries import Candidate, convert_network, convert_table_model
from made_up_inputs import CannotMakeUp, make_up_tables, make_up_tensors, with_gaps

from fargate_service.models.loaded_model import EXAMPLE_FILE
from fargate_service.models.onnx_loading import OnnxModel

Predict = Callable[[Any], Any]
_NETWORKS = {"tensorflow", "keras"}


class CannotConvert(Exception):
    """Raised if a model cannot be converted; the message is shown to its owner."""


@dataclass(frozen=True)
class Original:
    """A model, its inputs, and the candidates to compare with it."""

    predict: Predict
    inputs: list[Any]
    gaps: Any | None  # an additional input with missing numbers; None: the model takes none
    needs_gaps: bool  # its signature allows missing numbers
    has_example: bool  # the first of the inputs is the model's own input example
    candidates: Iterable[Candidate]
    why_alone: str | None  # as in the service: why rows of several callers cannot be computed together
    as_served: Callable[[OnnxModel], Predict]  # a converted model, behind the service's checks


def load_original(model_dir: Path, *, template: str) -> Original:
    """Returns the model in `model_dir`; raises CannotConvert if its inputs are unknown."""
    metadata = yaml.safe_load((model_dir / "MLmodel").read_text(encoding="utf-8"))
    try:
        if template == "image_classifier":
            return _load_network(model_dir, metadata["flavors"])
        return _load_pyfunc(model_dir, metadata["flavors"])
    except CannotMakeUp as error:
        raise CannotConvert(str(error)) from error


def _load_network(model_dir: Path, flavors: dict[str, Any]) -> Original:
    from fargate_service.models.keras_loading import load_function  # noqa: PLC0415  # only conversion needs TensorFlow

    function = load_function(model_dir, flavors)
    example = _read_tensor_example(model_dir)
    inputs = make_up_tensors(function.spec.shape.as_list(), function.spec.dtype.as_numpy_dtype, example)
    return Original(
        predict=lambda data: function.call(data).numpy(),
        inputs=inputs,
        gaps=None,
        needs_gaps=False,
        has_example=example is not None,
        candidates=convert_network(function),
        why_alone=function.why_alone,
        as_served=lambda model: model.predict,
    )


def _load_pyfunc(model_dir: Path, flavors: dict[str, Any]) -> Original:
    import mlflow.pyfunc  # noqa: PLC0415  # image classifiers are served without it

    from fargate_service.batching.row_independence import why_pyfunc_alone  # noqa: PLC0415
    from fargate_service.pyfunc.pyfunc_loading import as_pyfunc  # noqa: PLC0415

    model = mlflow.pyfunc.load_model(str(model_dir))
    schema = model.metadata.get_input_schema()
    if schema is None:
        raise CannotConvert("it has no signature, so its inputs are unknown")
    if model.metadata.get_params_schema():
        raise CannotConvert("it takes params, which a converted model does not support")
    example = model.metadata.load_input_example(str(model_dir)) if model.metadata.saved_input_example_info else None
    columns = schema.to_dict()
    inputs = _tensors(schema, example) if schema.is_tensor_spec() else make_up_tables(columns, example)
    if _NETWORKS & set(flavors):
        from fargate_service.models.keras_loading import load_function  # noqa: PLC0415

        function = load_function(model_dir, flavors)
        candidates, why_alone = convert_network(function), function.why_alone
    else:
        why_alone = why_pyfunc_alone(model)
        candidates = convert_table_model(model.get_raw_model(), flavors, columns)
    return Original(
        predict=model.predict,
        inputs=inputs,
        gaps=None if schema.is_tensor_spec() else with_gaps(columns, inputs[-1]),
        needs_gaps=any(not one.get("required", True) for one in columns),
        has_example=example is not None,
        candidates=candidates,
        why_alone=why_alone,
        as_served=lambda converted: as_pyfunc(model_dir, converted).predict,
    )


def _tensors(schema: Any, example: Any) -> list[Any]:
    if len(schema.inputs) != 1:
        raise CannotConvert("it has several inputs")
    (spec,) = schema.inputs
    given = next(iter(example.values())) if isinstance(example, dict) else example
    arrays = make_up_tensors(spec.shape, spec.type, given)
    return [{spec.name: array} for array in arrays] if spec.name else arrays


def _read_tensor_example(model_dir: Path) -> Any:
    file = model_dir / EXAMPLE_FILE
    document = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return document.get("inputs", document.get("instances"))
