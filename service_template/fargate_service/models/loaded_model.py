"""What every template gives the routes: a loaded model that warms up and speaks MLflow's protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

# MLflow writes it beside a model logged with an input example: the body of a request.
EXAMPLE_FILE = "serving_input_example.json"


class ScoringResponse(NamedTuple):
    """A response as MLflow's protocol has it."""

    status: int
    body: str
    media_type: str


class Batching(NamedTuple):
    """Whether requests that wait share one prediction, and why: what `GET /version` says of it."""

    is_on: bool
    reason: str  # one short sentence, without its period

    def __str__(self) -> str:
        return f"{'on' if self.is_on else 'off'}: {self.reason}"


def choose_batching(asked: bool | None, why_alone: str | None) -> Batching:
    """What the user asked for; without a wish on where nothing speaks for answering each request alone."""
    if asked is not None:
        return Batching(asked, f"batching={str(asked).lower()} is set")
    if why_alone is not None:
        return Batching(False, why_alone)
    return Batching(True, "the model is known to treat each row alone")


class LoadedModel(Protocol):
    """A model in memory."""

    version: str  # of MLflow: the running one, or the one that logged the model where none runs

    @property
    def batching(self) -> Batching:
        """Whether requests share predictions at this moment: then many threads should wait for one."""

    def warm_up(self) -> bool:
        """Answers one prediction; False: there is no example to try. An exception means the model cannot serve."""

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        """The answer to a POST on `/invocations`; RequestError when there is none."""


@runtime_checkable
class ImageLabeler(Protocol):
    """A model that also names what is on an image."""

    def label_images(self, images: Sequence[bytes], top: int | None) -> list[dict[str, Any]]:
        """For each image file {"label": …}, and the scores of the `top` best if asked; RequestError if it is none."""


@runtime_checkable
class Streamer(Protocol):
    """A model that can answer piece by piece."""

    def stream(self, body: bytes, content_type: str) -> Iterator[Any]:
        """The pieces, JSON-able; RequestError before the first of them when there will be none."""
