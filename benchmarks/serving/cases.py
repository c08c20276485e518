"""What is measured: a model with a body."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.wrk import Request

JSON, CSV = "application/json", "text/csv"
_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)


@dataclass(frozen=True)
class Case:
    """A model, and the body that every server gets in the form that it takes."""

    title: str
    model: str
    file: str  # in the folder of the model, or of all models
    one_core: bool = False  # the servers on one core, the client on another

    @property
    def is_picture(self) -> bool:
        return self.model in ("tensorflow", "onnx")

    @property
    def slowness(self) -> int:
        """How much longer a burst lasts: 32 pictures of a phone take some seconds."""
        return 6 if self.file == "phone.jpeg" else 1

    @property
    def is_csv(self) -> bool:
        return self.file.endswith(".csv")

    def body(self, models: Path) -> bytes:
        return (models / self.file if self.is_picture else models / self.model / self.file).read_bytes()


CASES = (
    Case("linear pipeline, 1 row of 10", "linear", "row.json"),
    Case("linear pipeline, 1 row of 10, one core", "linear", "row.json", one_core=True),
    Case("forest of 100 trees, 1 row of 10", "forest", "row.json"),
    Case("XGBoost, 1 row of 10", "xgboost", "row.json"),
    Case("linear pipeline, 1,000 rows of 30 as JSON", "wide", "rows.json"),
    Case("linear pipeline, 1,000 rows of 30 as CSV", "wide", "rows.csv"),
    Case("TensorFlow, PNG of 150 x 150", "tensorflow", "picture.png"),
    Case("TensorFlow, JPEG of 12 megapixels", "tensorflow", "phone.jpeg"),
    Case("ONNX Runtime, PNG of 150 x 150", "onnx", "picture.png"),
    Case("ONNX Runtime, JPEG of 12 megapixels", "onnx", "phone.jpeg"),
)


def as_sent(case: Case, body: bytes, path: str) -> Request:
    """The body itself."""
    kinds = {"csv": CSV, "json": JSON, "png": "image/png", "jpeg": "image/jpeg"}
    return Request(path, body, kinds[case.file.rpartition(".")[2]])


def as_text(_: Case, body: bytes, path: str) -> Request:
    """A picture as base64 in a column, which is how MLflow's server takes one."""
    split = {"columns": ["image"], "data": [[base64.b64encode(body).decode()]]}
    return Request(path, json.dumps({"dataframe_split": split}).encode(), JSON)


def as_form(_: Case, body: bytes, path: str) -> Request:
    return Request(path, _FORM + body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")


def as_base64(_: Case, body: bytes, path: str) -> Request:
    return Request(path, json.dumps({"image": base64.b64encode(body).decode()}).encode(), JSON)


def as_rows(_: Case, body: bytes, path: str) -> Request:
    return Request(path, json.dumps({"rows": json.loads(body)["dataframe_split"]["data"]}).encode(), JSON)


def as_tensor(_: Case, body: bytes, path: str) -> Request:
    """The Open Inference Protocol, which MLServer speaks."""
    rows = json.loads(body)["dataframe_split"]["data"]
    tensor = {"name": "rows", "shape": [len(rows), len(rows[0])], "datatype": "FP64", "data": rows}
    return Request(path, json.dumps({"inputs": [tensor]}).encode(), JSON)


def read_answer(text: bytes) -> list[Any]:
    """Returns the labels in a server's answer, whatever form it has."""
    try:
        document = json.loads(text)
    except ValueError:
        return [text.decode()]
    if isinstance(document, dict):
        if "outputs" in document:
            document = document["outputs"][0]["data"]
        else:
            document = document.get("predictions", document.get("label"))
    return document if isinstance(document, list) else [document]
