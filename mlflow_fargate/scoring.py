"""Asking a deployed model: `wait_until_ready`, then `score`. Knows HTTP and MLflow's protocol, nothing of AWS.

What a caller has in hand becomes a request: tables, arrays and dicts go to /invocations as JSON, an image file or its
bytes to /predict_image. pandas and NumPy objects are recognised by what they can do, so neither is imported here.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import stamina
from requests.auth import AuthBase

from mlflow_fargate.errors import InvalidOption, PredictionFailed, RolloutTimeout

# https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
_TABLE_KEYS = ("dataframe_split", "dataframe_records")
_TENSOR_KEYS = ("instances", "inputs")
_PROTOCOL_KEYS = frozenset({*_TABLE_KEYS, *_TENSOR_KEYS, "messages", "prompt", "input"})
_SPLIT_KEYS = frozenset({"columns", "data", "index"})
# What a load balancer says while targets come and go. A prediction changes nothing, so asking again is safe.
_TRANSIENT = frozenset({502, 503, 504})
_ATTEMPTS = 4
_POLL_SECONDS = 2.0
_SHOWN_CHARACTERS = 500
_HINTS = {
    401: "the deployment has another API key than the one sent",
    404: "this deployment has no such route; only image classifiers answer /predict_image",
    413: "send fewer rows or a smaller image, or raise environment.MAX_BODY_MB",
}


class _ApiKey(AuthBase):
    """Sets the key. A plain header would lose against a .netrc entry for the same host."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._api_key is not None:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class _Unavailable(Exception):
    def __init__(self, response: requests.Response) -> None:
        self.response = response


def wait_until_ready(
    url: str,
    *,
    timeout_seconds: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    api_key: str | None = None,
) -> None:
    """Returns when the model at `url` says it is ready; RolloutTimeout tells what it said last instead."""
    deadline = clock() + timeout_seconds
    while True:
        said = _ask_ready(f"{url.rstrip('/')}/readyz", api_key)
        if said is None:
            return
        if clock() + _POLL_SECONDS > deadline:
            raise RolloutTimeout(f"{url} was not ready within {timeout_seconds:g} s; the last answer was: {said}")
        sleep(_POLL_SECONDS)


def score(url: str, inputs: Any, *, api_key: str | None = None, timeout_seconds: float = 60) -> Any:
    """The parsed JSON with which the model at `url` answers `inputs`; PredictionFailed when it does not.

    `inputs`: a DataFrame or Series, an array, a list (of dicts: rows), a dict (MLflow's keys as they are, others as
    named tensors), or an image as bytes or as the path of its file.
    """
    base = url.rstrip("/")
    if isinstance(inputs, bytes | bytearray | str | Path):
        image = _read_image(inputs)
        return _post(f"{base}/predict_image", api_key, timeout_seconds, files={"image": ("image", image)})
    body = make_body(inputs)
    headers = {"Content-Type": "application/json"}
    return _post(f"{base}/invocations", api_key, timeout_seconds, data=body, headers=headers)


def make_body(inputs: Any) -> bytes:
    """`inputs` as the JSON body of an `/invocations` request; missing values become null."""
    return json.dumps(_jsonable(_make_document(inputs)), allow_nan=False).encode()


def _make_document(inputs: Any) -> Any:
    if hasattr(inputs, "columns") and hasattr(inputs, "iloc"):
        return _unwrapped(inputs) or _split(inputs)
    if hasattr(inputs, "to_frame"):
        return _split(inputs.to_frame())
    if isinstance(inputs, Mapping):
        return inputs if _PROTOCOL_KEYS & inputs.keys() else {"inputs": inputs}
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(row, Mapping) for row in inputs):
        return {"dataframe_records": inputs}
    return {"inputs": inputs}


def _split(frame: Any) -> dict[str, Any]:
    # Through objects: one array for all columns would turn whole numbers beside fractions into fractions.
    rows = frame.astype(object).to_numpy().tolist()
    return {"dataframe_split": {"columns": list(frame.columns), "data": rows}}


def _unwrapped(frame: Any) -> dict[str, Any] | None:
    """The request that `mlflow deployments predict` read as a table, or None when `frame` is a table.

    It reads its input file with `pandas.read_json`, whatever is in it: {"inputs": […]} becomes a column `inputs`,
    {"dataframe_split": {…}} a column with the rows `columns` and `data`.
    """
    if len(frame.columns) != 1 or frame.columns[0] not in (*_TABLE_KEYS, *_TENSOR_KEYS):
        return None
    key, cells = frame.columns[0], frame.iloc[:, 0].tolist()
    names = frame.index.tolist()
    if key == "dataframe_split":
        return {key: dict(zip(names, cells, strict=True))} if set(names) <= _SPLIT_KEYS else None
    if key == "dataframe_records":
        return {key: cells} if all(isinstance(cell, dict) for cell in cells) else None
    return {key: dict(zip(names, cells, strict=True)) if all(isinstance(name, str) for name in names) else cells}


def _jsonable(value: Any) -> Any:
    """`value` in the types JSON has; NaN, NaT and NA become None, bytes base64, times ISO 8601."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return _jsonable(value.tolist())
    return _jsonable_scalar(value)


def _jsonable_scalar(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "__float__"):  # Decimal and Fraction as well
        return _finite(float(value))
    raise InvalidOption(f"A {type(value).__name__} cannot be sent to a model as JSON.")


def _finite(number: float) -> float | None:
    if math.isinf(number):
        raise InvalidOption("An infinite number cannot be sent to a model: JSON has none.", hint="replace or drop it")
    return None if math.isnan(number) else number


def _read_image(image: bytes | bytearray | str | Path) -> bytes:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidOption(
            f"The image file '{image}' cannot be read ({error.strerror}).",
            hint="other inputs than images are DataFrames, arrays, lists and dicts",
        ) from error


def _post(url: str, api_key: str | None, timeout_seconds: float, **request: Any) -> Any:
    try:
        response = _post_until_available(url, api_key, timeout_seconds, **request)
    except _Unavailable as error:
        response = error.response
    except requests.RequestException as error:
        raise PredictionFailed(f"{url} did not answer: {error}") from error
    if not response.ok:
        said = response.text[:_SHOWN_CHARACTERS]
        raise PredictionFailed(f"{url} answered {response.status_code}: {said}", hint=_HINTS.get(response.status_code))
    try:
        return response.json()
    except ValueError as error:
        said = response.text[:_SHOWN_CHARACTERS]
        raise PredictionFailed(f"{url} answered with something else than JSON: {said}") from error


@stamina.retry(on=(_Unavailable, requests.ConnectionError), attempts=_ATTEMPTS, timeout=None, wait_initial=0.5)
def _post_until_available(url: str, api_key: str | None, timeout_seconds: float, **request: Any) -> requests.Response:
    response = requests.post(url, auth=_ApiKey(api_key), timeout=(10, timeout_seconds), **request)
    if response.status_code in _TRANSIENT:
        raise _Unavailable(response)
    return response


def _ask_ready(url: str, api_key: str | None) -> str | None:
    """None when ready; else what was said."""
    try:
        response = requests.get(url, auth=_ApiKey(api_key), timeout=10)
    except requests.RequestException as error:
        return str(error)
    if response.status_code == 200:
        return None
    return f"{response.status_code} {response.text[:_SHOWN_CHARACTERS]}".strip()
