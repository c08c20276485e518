"""Many callers of a running service at the same time, whose requests have known answers.

A model's own answers are those of MLflow: `mlflow.pyfunc.load_model(…).predict(…)` for the rows of one request.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from mlflow.pyfunc.scoring_server import predictions_to_json

from support.serving_process import Running, serve

CALLERS = 16
COUNTED_SERVICE = ("-c", (Path(__file__).parent / "counted_service.py").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Question:
    """A request with the model's own answer."""

    body: bytes
    rows: int
    answer: Any
    path: str = "/invocations"
    media_type: str = "application/json"


@dataclass(frozen=True)
class Counted:
    """A running service that writes down the number of rows of each prediction."""

    running: Running
    file: Path

    def rows_per_call(self) -> list[int]:
        return [int(line) for line in self.file.read_text(encoding="ascii").split()]


@contextmanager
def serve_counted(source: Path, model_dir: Path, folder: Path) -> Iterator[Counted]:
    file = folder / "calls"
    file.touch()
    with serve(source, model_dir, folder, entry_point=COUNTED_SERVICE, COUNTED_CALLS=str(file)) as running:
        yield Counted(running, file)


def make_tables(table: pd.DataFrame, count: int, *, most_rows: int, seed: int) -> list[pd.DataFrame]:
    """Returns tables of 1 to `most_rows` random rows; each value is from a random row of its column in `table`."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, most_rows + 1, count)
    return [pd.DataFrame({name: random.choice(table[name], size) for name in table.columns}) for size in sizes]


def ask_about_tables(model: Any, tables: Sequence[pd.DataFrame]) -> list[Question]:
    """Returns the requests for `tables` with the answers of `model`, an mlflow.pyfunc.PyFuncModel, to each alone."""
    return [
        Question(encode_table(table, as_records=bool(number % 4 == 0)), len(table), own_answer(model, table))
        for number, table in enumerate(tables)
    ]


def encode_table(table: pd.DataFrame, *, as_records: bool) -> bytes:
    form = "records" if as_records else "split"
    return json.dumps({f"dataframe_{form}": table.to_dict(orient=form)}).encode()  # type: ignore[call-overload]


def own_answer(model: Any, data: Any) -> Any:
    """Returns what MLflow's server would answer."""
    file = io.StringIO()
    predictions_to_json(model.predict(data), file)
    return json.loads(file.getvalue())["predictions"]


def wrong_answers(running: Running, questions: Sequence[Question], *, tolerance: float = 1e-9) -> list[Any]:
    """Returns the answers that differ from the model's own when `CALLERS` callers send `questions` at the same time."""
    with ThreadPoolExecutor(CALLERS) as threads:
        found = threads.map(lambda caller: _call(running.url, questions[caller::CALLERS], tolerance), range(CALLERS))
        return [one for wrong in found for one in wrong]


def _call(url: str, questions: Sequence[Question], tolerance: float) -> list[Any]:
    address = urlsplit(url)
    # Not `requests`: the callers share the machine with the service and should leave it the time.
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    wrong = []
    for one in questions:
        connection.request("POST", address.path + one.path, one.body, {"Content-Type": one.media_type})
        response = connection.getresponse()
        text = response.read()
        given = json.loads(text)
        answer = given.get("predictions") if one.path == "/invocations" else given
        if response.status != 200 or not is_same(answer, one.answer, tolerance):
            wrong.append((response.status, given, one.answer))
    connection.close()
    return wrong


def is_same(one: Any, other: Any, tolerance: float) -> bool:
    """Returns whether two JSON documents are equal, except for the last digits of fractions."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(is_same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key], tolerance) for key in one)
    return type(one) is type(other) and bool(one == other)


def save_questions(questions: Sequence[Question], file: Path) -> None:
    documents = [asdict(one) | {"body": base64.b64encode(one.body).decode()} for one in questions]
    file.write_text(json.dumps(documents), encoding="utf-8")


def load_questions(file: Path) -> list[Question]:
    documents = json.loads(file.read_text(encoding="utf-8"))
    return [Question(**one | {"body": base64.b64decode(one["body"])}) for one in documents]
