"""What every template provides to the routes: a loaded model that warms up and supports MLflow's protocol."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fargate_service.batching.arrivals import Arrivals
from fargate_service.memory.reservation import Reservation

# MLflow writes it next to a model logged with an input example: the body of a request.
EXAMPLE_FILE = "serving_input_example.json"


class ScoringResponse(NamedTuple):
    """A response in MLflow's protocol."""

    status: int
    body: str
    media_type: str


class Batching(NamedTuple):
    """Whether waiting requests share one prediction, and why, as shown by `GET /version`."""

    is_on: bool
    reason: str  # one short sentence, without its period

    def __str__(self) -> str:
        return f"{'on' if self.is_on else 'off'}: {self.reason}"


def choose_batching(asked: bool | None, why_alone: str | None) -> Batching:
    """Returns the user's choice if there is one; otherwise on unless `why_alone` gives a reason against it."""
    if asked is not None:
        return Batching(asked, f"batching={str(asked).lower()} is set")
    if why_alone is not None:
        return Batching(False, why_alone)
    return Batching(True, "the model is known to process each row independently")


class LoadedModel(Protocol):
    """A model in memory."""

    arrivals: Arrivals  # where requests are announced before they predict
    version: str  # MLflow's: the installed one, or the one that logged the model if none is installed

    @property
    def batching(self) -> Batching:
        """Whether requests currently share predictions: if so, many threads should wait for one."""

    def warm_up(self) -> bool:
        """Makes one prediction; returns False if there is no example. An exception means the model cannot serve."""

    def keep_room(self, available_bytes: int, threads: int) -> int:
        """Returns the bytes for predictions in progress, of those available, and adjusts the batches to them.

        Called once the model is warm; `threads` predictions can run at a time where requests do not share them.
        """

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        """Returns the response to a POST on `/invocations`; raises RequestError if there is none."""


@runtime_checkable
class ImageLabeler(Protocol):
    """A model that also labels images."""

    def label_images(self, images: Sequence[bytes], top: int | None) -> list[dict[str, Any]]:
        """Returns {"label": …} for each image file, with the `top` best scores if requested; may raise RequestError."""


@runtime_checkable
class Gatherer(Protocol):
    """A model that answers several requests at once, while `batching` is on."""

    batching: Batching

    def gathers(self, content_type: str) -> bool:
        """Whether bodies of this type can be answered together."""

    def invoke_together(self, waiting: Sequence[tuple[bytes, Reservation]]) -> list[ScoringResponse | None]:
        """Returns a response for each body, with its request's reservation; None for those that `invoke` answers."""


@runtime_checkable
class Streamer(Protocol):
    """A model that can stream its response."""

    def may_ask(self, body: bytes) -> bool:
        """Whether `asks` has to read the body; fast."""

    def asks(self, body: bytes, content_type: str) -> bool:
        """Whether a request asks for a stream with {"stream": true, …}, as clients of OpenAI and MLflow do."""

    def stream(self, body: bytes, content_type: str) -> Generator[Any]:
        """Yields JSON-serializable chunks; raises RequestError before the first one if there will be none."""
