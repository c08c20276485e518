"""The text of responses in MLflow's protocol: answers, and the messages of refusals without the data sent."""

from __future__ import annotations

import json
import re
from typing import Any

from mlflow.pyfunc import scoring_server

from fargate_service.models.loaded_model import ScoringResponse

# Words after which MLflow's messages repeat values, or names that the caller chose. Up to the last quote or bracket,
# because values can contain them too.
_REPEATED = re.compile(
    r"\b(data|value|got|Got|of|input|inputs:|fields:|payload:|Received:)\s+(`.*`|'.*'|\[.*\]|\{.*\}|dict_keys\(.*\))",
    re.DOTALL,
)
_PIECE_ITEMS = 10_000


def without_data(message: str) -> str:
    """Removes the data and schema that MLflow's message repeats: responses end up in logs."""
    # Of other libraries' errors, only JSON's are kept; the others quote the data they could not read.
    message = re.sub(r" Error: '(?!JSONDecodeError\()\w+\(.*$", "", message, flags=re.DOTALL)
    message = re.sub(r" Error: '(?!JSONDecodeError\()([^:'\"`\[({=\n]*).*$", r" Error: \1", message, flags=re.DOTALL)
    message = re.sub(r"^(Invalid input\. [^:'\"`\[({=\n]*).*$", r"\1", message, flags=re.DOTALL)
    message = re.sub(r" for value `.*`", "", message, flags=re.DOTALL)
    # Type hints: the elements that do not fit, and pydantic's description of one.
    message = re.sub(r", (invalid elements|error): .*$", "", message, flags=re.DOTALL)
    message = re.sub(r"^Failed to predict data '.*'\. \nError: ", "", message, flags=re.DOTALL)
    message = re.sub(r" of data '.*' with schema", " with schema", message, flags=re.DOTALL)
    message = re.sub(r" with schema '.*'\. Error: ", ". Error: ", message, flags=re.DOTALL)
    message = re.sub(r"\s*Input: \n.*$", "", message, flags=re.DOTALL)
    return _REPEATED.sub(r"\1 …", message)


def write_answer(answer: Any, around: str = '{"predictions": null}') -> ScoringResponse:
    """Returns the model's answer, as MLflow writes it, in place of the `null` in `around`."""
    text = _json(scoring_server._get_jsonable_obj(answer))
    return ScoringResponse(200, around.replace("null", _without_nan(text)), scoring_server.CONTENT_TYPE_JSON)


def _json(answer: Any) -> str:
    """Encodes in pieces, because Python's encoder holds all other threads until a whole document is encoded."""
    if type(answer) is not list or len(answer) <= _PIECE_ITEMS:
        return json.dumps(answer, cls=scoring_server.NumpyEncoder)
    pieces = (answer[begin : begin + _PIECE_ITEMS] for begin in range(0, len(answer), _PIECE_ITEMS))
    return f"[{', '.join(_json(piece)[1:-1] for piece in pieces)}]"


def _without_nan(body: str) -> str:
    if "NaN" not in body and "Infinity" not in body:
        return body
    return json.dumps(json.loads(body, parse_constant=lambda _: None))
