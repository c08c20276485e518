"""Parses a JSON body once its cost is reserved, and turns whatever Python cannot parse into a bad request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from json.decoder import JSONArray, JSONObject  # type: ignore[attr-defined]  # they are not in its stub
from typing import Any

from fargate_service.errors import RequestError
from fargate_service.memory.costs import document_cost, json_passing_cost
from fargate_service.memory.reservation import Reservation

_LARGE_BYTES = 10**6
_LEVELS = 4  # of objects and lists, down to the rows of an array of images


class InPieces(json.JSONDecoder):
    """Decodes row by row: Python's decoder holds all other threads until a whole document is decoded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._decode_whole: Callable[[str, int], Any] = self.scan_once  # type: ignore[has-type]
        self.scan_once = partial(self._decode_member, _LEVELS)

    def _decode_member(self, levels: int, text: str, at: int) -> Any:
        if levels and text[at : at + 1] == "{":
            return JSONObject((text, at + 1), self.strict, partial(self._decode_member, levels - 1), None, None)
        return self._decode_item(levels, text, at)

    def _decode_item(self, levels: int, text: str, at: int) -> Any:
        if levels and text[at : at + 2] in ("[[", "[{", "[ ", "[\n"):
            return JSONArray((text, at + 1), partial(self._decode_item, levels - 1))
        return self._decode_whole(text, at)


def parse_json(body: bytes, reservation: Reservation, *, max_levels: int) -> Any:
    """Returns the document in `body`, having reserved what MLflow will make of it.

    RequestError 400 if it has more than `max_levels` levels of lists and objects, or a number with thousands of digits;
    ValueError if it is not JSON.
    """
    try:
        document = json.loads(body, cls=InPieces if len(body) > _LARGE_BYTES else None)
    except RecursionError as error:
        raise _too_deep(max_levels) from error
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            raise
        limit = f"{sys.get_int_max_str_digits():,} digits (environment.PYTHONINTMAXSTRDIGITS)"
        raise RequestError(400, f"A number has more than {limit}.") from error
    if has_more_levels(document, max_levels):
        raise _too_deep(max_levels)
    # Before, room was reserved for a table with as many cells as there are values.
    reservation.need(document_cost(document) - json_passing_cost(body))
    return document


def has_more_levels(document: Any, levels: int) -> bool:
    outer = _containers([document])
    for _ in range(levels):
        if not outer:
            return False
        outer = [inner for one in outer for inner in _containers(one.values() if isinstance(one, dict) else one)]
    return bool(outer)


def _containers(values: Iterable[Any]) -> list[Any]:
    return [one for one in values if type(one) is list or type(one) is dict]


def _too_deep(levels: int) -> RequestError:
    message = f"The document is nested too deeply: more than {levels} levels (MAX_JSON_LEVELS)."
    return RequestError(400, message)
