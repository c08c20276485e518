"""A model that was converted to ONNX when its image was built and replaces the library it was trained with.

    model.onnx          the computation
    onnx_answer.json    how its outputs become the model's answer (`AnswerForm`), found when the two were compared

They are next to the model's MLmodel and input example. Needs onnxruntime and NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from fargate_service.errors import RequestError
from fargate_service.models.loaded_network import LoadedNetwork
from fargate_service.models.onnx_answer import AnswerForm, shape_answer

MODEL_FILE = "model.onnx"
ANSWER_FILE = "onnx_answer.json"
# https://onnxruntime.ai/docs/api/python/api_summary.html: the types of a session's inputs
_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


class OnnxModel:
    """Predicts like the model it was converted from, with the interface of MLflow's `python_function`."""

    def __init__(self, model: str | bytes, form: AnswerForm, *, cpus: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cpus
        options.inter_op_num_threads = 1
        # Spinning threads take CPU time from the others: a task has a share of a machine, not its cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # it warns about shapes that converters record incorrectly
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._form = form
        self._inputs = [(one.name, _TYPES[one.type]) for one in self._session.get_inputs()]
        if len(self._inputs) != max(1, len(form.columns)):
            raise ValueError("the model has several inputs")

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """The shape of the first input; None for every open length."""
        return tuple(side if isinstance(side, int) else None for side in self._session.get_inputs()[0].shape)

    @property
    def why_alone(self) -> str | None:
        """As in LoadedNetwork."""
        return self._form.why_alone

    def compute(self, data: Any) -> list[Any]:
        """Returns all outputs for `data`: an array, a table, or one array by its name."""
        return self._session.run(None, self._feeds(data))  # type: ignore[no-any-return]

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Returns the answer in the model's own form; a model with params is never converted."""
        return shape_answer(self.compute(data), self._form)

    def _feeds(self, data: Any) -> dict[str, np.ndarray]:
        columns = self._form.columns
        if columns:
            pairs = zip(columns, self._inputs, strict=True)
            return {name: self._column(data[column]).astype(kind) for column, (name, kind) in pairs}
        if isinstance(data, Mapping):
            (data,) = data.values()
        ((name, kind),) = self._inputs
        return {name: self._without_gaps(np.asarray(data)).astype(kind, copy=False)}

    def _column(self, column: Any) -> np.ndarray:
        return self._without_gaps(np.asarray(column)).reshape(-1, 1)

    def _without_gaps(self, array: np.ndarray) -> np.ndarray:
        if not self._form.takes_gaps and array.dtype.kind == "f" and np.isnan(array).any():
            raise RequestError(400, "A value is missing, and this model requires complete rows.")
        return array


def load_onnx(model_dir: Path, *, cpus: int) -> OnnxModel:
    """Returns the converted model in `model_dir`."""
    document = json.loads((model_dir / ANSWER_FILE).read_text(encoding="utf-8"))
    form = AnswerForm(**{**document, "columns": tuple(document["columns"])})
    return OnnxModel(str(model_dir / MODEL_FILE), form, cpus=cpus)


def save_onnx(model: bytes, form: AnswerForm, model_dir: Path) -> None:
    """Writes the files that `load_onnx` reads."""
    (model_dir / MODEL_FILE).write_bytes(model)
    (model_dir / ANSWER_FILE).write_text(json.dumps(asdict(form)), encoding="utf-8")


def load_onnx_network(model_dir: Path, *, cpus: int) -> LoadedNetwork:
    """Returns the converted network of an image classifier."""
    model = load_onnx(model_dir, cpus=cpus)
    return LoadedNetwork(predict=model.predict, input_shape=model.input_shape, why_alone=model.why_alone)
