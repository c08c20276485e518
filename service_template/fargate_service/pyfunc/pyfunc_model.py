"""Template `pyfunc`: serves any MLflow model with MLflow's own scoring code.

It differs from MLflow's server in four ways: a model's failure is a 500 (MLflow: 400) unless the input is to blame
(caller_mistakes), responses contain neither stack traces nor the data sent, NaN is written as `null` (MLflow: `NaN`,
which is not valid JSON), and Parquet must be switched on.
"""

from __future__ import annotations

import gc
import itertools
import logging
import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION

from fargate_service.errors import RequestError, request_id
from fargate_service.memory.costs import answer_cost, csv_cost, json_cost, repetition_cost, table_cost
from fargate_service.memory.json_body import parse_json
from fargate_service.memory.reservation import Reservation, current_reservation
from fargate_service.models.loaded_model import EXAMPLE_FILE, Batching, ScoringResponse
from fargate_service.pyfunc.exact_input import read_exactly
from fargate_service.pyfunc.guarded_model import GuardedModel, ModelFailed
from fargate_service.pyfunc.scoring_text import without_data, write_answer
from fargate_service.pyfunc.table_batching import TableBatcher, split_predictions
from fargate_service.settings import DEFAULT_DOCUMENT_LIMITS, DocumentLimits

logger = logging.getLogger("bentoml.model")
_ASKS = re.compile(rb'"stream"\s*:\s*true')
_NO_STREAM = "This model does not stream; send 'Accept: application/json', without \"stream\": true."
_MOST_REPETITION = 10**7  # less than a second
_LONG_MESSAGE = 100_000
_PARQUET = "application/vnd.apache.parquet"  # older releases of MLflow have no name for it
_EXACT_TYPES = frozenset({"application/json", "application/json;charset=utf-8"})


class PyfuncModel:
    """An MLflow model in memory."""

    def __init__(
        self,
        model: Any,
        model_dir: Path,
        tables: TableBatcher,
        *,
        limits: DocumentLimits = DEFAULT_DOCUMENT_LIMITS,
    ) -> None:
        self.version: str = VERSION
        self.arrivals = tables.arrivals
        self._tables = tables
        self._model = GuardedModel(model, tables)
        self._limits = limits
        parquet = {_PARQUET} if limits.accept_parquet else set()
        self._media_types = {scoring_server.CONTENT_TYPE_JSON, scoring_server.CONTENT_TYPE_CSV, *parquet}
        self._streaming = model if model.metadata.flavors["python_function"].get("streamable") else None
        self._schema = model.metadata.get_input_schema()
        self._exact = read_exactly(model.metadata, limits)
        self._example = model_dir / EXAMPLE_FILE
        self.example_answer = ""  # for the documentation

    @property
    def batching(self) -> Batching:
        return self._tables.batching

    def warm_up(self) -> bool:
        """Predicts the model's input example; returns False if it was logged without one."""
        if not self._example.is_file():
            return False
        self.example_answer = self.invoke(self._example.read_bytes(), "application/json").body
        return True

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        """Scores a request in MLflow's protocol: JSON in its five formats, CSV, and Parquet if it is accepted."""
        with current_reservation().working(_cost(body, content_type)):
            response = self._invoke(body, content_type)
            current_reservation().keep_answer(len(response.body))
            return response

    def _invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        data = self._read_exactly(body, content_type)
        if data is None:
            return self._score(self._model, body, content_type)
        try:
            return write_answer(self._model.predict(data, is_checked=True))
        except MlflowException as error:
            raise _refusal(error) from error

    def _read_exactly(self, body: bytes, content_type: str) -> Any | None:
        """Returns the model's input if the body fits the signature exactly; None if MLflow has to read it."""
        if self._exact is None:
            return None
        if content_type == scoring_server.CONTENT_TYPE_CSV:
            return self._exact.table_in(body)
        rows = self._exact.rows(body) if self.gathers(content_type) else None
        if not rows:
            return None
        # The cells are reserved already.
        current_reservation().need(table_cost(len(rows), 0) + table_cost(0, self._exact.width))
        return self._exact.join(rows)

    def gathers(self, content_type: str) -> bool:
        """Whether `invoke_together` may answer bodies of this type."""
        return self._exact is not None and content_type.lower().replace(" ", "") in _EXACT_TYPES

    def invoke_together(self, waiting: Sequence[tuple[bytes, Reservation]]) -> list[ScoringResponse | None]:
        """Returns the responses to several bodies, from one prediction; None for those that `invoke` has to answer.

        These do not fit the signature exactly, the model fails on them, or their memory is not free at the moment.
        """
        answers: list[ScoringResponse | None] = [None] * len(waiting)
        begun: list[Reservation] = []
        ready: list[_Ready] = []
        try:
            for number, (body, reservation) in enumerate(waiting):
                if not reservation.begin_at_once(json_cost(body)):
                    continue
                begun.append(reservation)
                rows = self._exact.rows(body) if self._exact else None
                if rows and reservation.need_at_once(self._table_cost(len(rows), is_first=not ready)):
                    ready.append(_Ready(number, rows, reservation))
            self._answer_together(ready, answers)
        finally:
            for reservation in begun:
                reservation.end()
        return answers

    def _table_cost(self, rows: int, *, is_first: bool) -> int:
        """What rows cost beyond their cells, which are reserved already; the first ones with the table's columns."""
        width = self._exact.width if self._exact and is_first else 0
        return table_cost(rows, 0) + table_cost(0, width) + self._model.row_bytes * rows

    def _answer_together(self, ready: Sequence[_Ready], answers: list[ScoringResponse | None]) -> None:
        if self._exact is None or not ready:
            return
        try:
            data = self._exact.join(list(itertools.chain.from_iterable(one.rows for one in ready)))
            joined = self._tables.predict(data, is_checked=True) if data is not None else None
            parts = split_predictions(joined, [len(one.rows) for one in ready])
        except Exception:
            for one in ready if len(ready) > 1 else ():
                self._answer_together([one], answers)
            return
        for one, part in zip(ready, parts, strict=True):
            if one.reservation.need_at_once(answer_cost(part)):
                answers[one.number] = answer = write_answer(part)
                one.reservation.keep_answer(len(answer.body))

    def may_ask(self, body: bytes) -> bool:
        return self._streaming is not None and _ASKS.search(body) is not None

    def asks(self, body: bytes, content_type: str) -> bool:
        with current_reservation().working(_cost(body, content_type)):
            document = self._parse(body)
            return isinstance(document, dict) and document.get("stream") is True

    def stream(self, body: bytes, content_type: str) -> Generator[Any]:
        """Yields the chunks of the model's `predict_stream`; raises RequestError 406 if it has none."""
        if (model := self._streaming) is None:
            raise RequestError(406, _NO_STREAM)
        with current_reservation().working(_cost(body, content_type)):
            try:
                self._score(_Parsed(model.metadata), body, content_type)
            except _InputParsed as parsed:
                yield from _pieces(model, parsed.data, parsed.params)

    def keep_room(self, available_bytes: int, _threads: int) -> int:
        """Measures what a row costs to predict, where rows are independent; requests reserve that with their tables."""
        if self._tables.is_known and self._example.is_file():
            self._model.measure(self._parsed_example())
        return 0

    def _parsed_example(self) -> Any:
        try:
            self._score(_Parsed(self._model.metadata), self._example.read_bytes(), "application/json")
        except _InputParsed as parsed:
            return parsed.data
        return None

    def _score(self, model: Any, body: bytes, content_type: str) -> ScoringResponse:
        # MLflow compares media types as written, but they are case-insensitive.
        media_type, _, parameters = content_type.lower().partition(";")
        media_type = media_type.strip()
        if media_type not in self._media_types:
            raise _unsupported(media_type, self._media_types)
        exact = f"{media_type};{parameters.strip()}" if parameters.strip() else media_type
        if media_type == scoring_server.CONTENT_TYPE_CSV and repetition_cost(body) > _MOST_REPETITION:
            raise RequestError(400, "The header of the CSV repeats too many names.")
        asked = _Asked(model)
        if media_type == scoring_server.CONTENT_TYPE_JSON and exact.replace(" ", "") not in _EXACT_TYPES:
            _check_parameters(exact, asked)
        try:
            parsed = self._parse(body) if media_type == scoring_server.CONTENT_TYPE_JSON else body
            result = scoring_server.invocations(parsed, exact, asked, self._schema)
            if result.status == 200:
                return write_answer(asked.answer, result.response)
        except MlflowException as error:
            if isinstance(failed := error.__context__, ModelFailed | RequestError):
                raise failed from failed.__cause__  # the traceback of the model's own code
            raise _refusal(error) from error
        except RequestError:
            raise
        except Exception as error:
            if asked.has_input:
                raise  # its answer cannot be written
            logger.info("Request %s could not be read", request_id.get(), exc_info=error)
            raise RequestError(400, "The input cannot be read as a table or as tensors.") from error
        raise RequestError(result.status, result.response)  # another character set

    def _parse(self, body: bytes) -> Any:
        """Returns a JSON object, parsed: MLflow would parse it twice. Otherwise the body, which MLflow refuses."""
        try:
            document = parse_json(body, current_reservation(), max_levels=self._limits.max_levels)
        except ValueError:
            return body
        return document if isinstance(document, dict) else body


class _Ready(NamedTuple):
    """One of several requests, whose rows have been read."""

    number: int
    rows: list[Any]
    reservation: Reservation


class _Asked:
    """A model as one request sees it; keeps the answer, and MLflow writes `null` where it belongs."""

    def __init__(self, model: Any) -> None:
        self.metadata = model.metadata
        self.has_input = False
        self.answer: Any = None
        self._model = model

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> None:
        self.has_input = True
        self.answer = self._model.predict(data, params=params)


class _InputParsed(BaseException):
    """Not an error: carries the parsed input past the scoring code's `except Exception`."""

    def __init__(self, data: Any, params: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.data = data
        self.params = params


class _Parsed:
    """Replaces the model in the scoring code: MLflow's parsing is only available together with predicting."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        raise _InputParsed(data, params)


def _cost(body: bytes, content_type: str) -> int:
    """Returns what the body costs at most until it is parsed."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == scoring_server.CONTENT_TYPE_CSV:
        return csv_cost(body)
    return json_cost(body) if media_type == scoring_server.CONTENT_TYPE_JSON else len(body)


def _check_parameters(content_type: str, asked: _Asked) -> None:
    """Raises RequestError 415 if MLflow refuses the parameters of a JSON type, which it does before it reads a body."""
    try:
        result = scoring_server.invocations(b"{}", content_type, asked, None)
    except MlflowException:  # it would have read this
        return
    raise RequestError(result.status, result.response)


def _unsupported(media_type: str, accepted: Collection[str]) -> RequestError:
    listed = ", ".join(sorted(accepted))
    if media_type == _PARQUET:
        off = "Parquet is off, because a small file can have any size in memory (environment.ACCEPT_PARQUET)"
        return RequestError(415, f"{off}; send one of {listed}.")
    return RequestError(415, f"This Content-Type is not supported; send one of {listed}.")


def _pieces(model: Any, data: Any, params: Mapping[str, Any] | None) -> Iterator[Any]:
    try:
        yield from model.predict_stream(data, params=params)
    except NotImplementedError as error:  # MLflow says of every agent that it can stream
        raise RequestError(406, _NO_STREAM) from error
    except MlflowException as error:
        raise _refusal(error) from error


def _refusal(error: MlflowException) -> Exception:
    if len(error.message) > _LONG_MESSAGE:  # it repeats the input
        gc.collect()  # as text, a table of pandas 2 leaves a cycle with all of it; the model's own objects are frozen
    status = error.get_http_status_code()
    if status >= 500:  # nothing the caller could fix
        return ModelFailed(f"{type(error).__name__}: {error}")
    return RequestError(status, without_data(error.message), code=error.error_code)
