"""Template `image_classifier`: labels image files with a Keras model and its labels, without MLflow.

It also supports MLflow's `/invocations` for tensors (`instances` or `inputs`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fargate_service.batching.batcher import Batcher
from fargate_service.errors import RequestError
from fargate_service.memory.costs import answer_cost, json_cost
from fargate_service.memory.json_body import parse_json
from fargate_service.memory.measured import peak_bytes
from fargate_service.memory.reservation import current_reservation
from fargate_service.models.image_decoding import (
    AS_TRAINED_BY_DEFAULT,
    HEADER_BYTES,
    DecodingOptions,
    ImageShape,
    check_formats,
    decode_image,
    decode_opened,
    decoding_cost,
    make_black_image,
    open_image,
    parse_image_shape,
    with_size,
)
from fargate_service.models.loaded_model import Batching, ScoringResponse
from fargate_service.settings import DEFAULT_DOCUMENT_LIMITS, DEFAULT_LIMITS, ImageLimits

MAX_BATCH = 32
_MEASURED_IMAGES = (2, 8)
_OPEN_SIDE = 512  # of a model that takes images of any size
_MARGIN = 2.0  # libraries enlarge their memory in powers of two
_NOT_ROW_BY_ROW = "the model's scores do not have one row per image"


class ImageClassifier:
    """A loaded model that labels images."""

    def __init__(
        self,
        predict: Callable[[np.ndarray], np.ndarray],
        input_shape: tuple[int | None, ...],
        labels: Mapping[str, Any],
        *,
        logged_with: str,
        batching: Batching,
        limits: ImageLimits = DEFAULT_LIMITS,
        max_levels: int = DEFAULT_DOCUMENT_LIMITS.max_levels,
        options: DecodingOptions = AS_TRAINED_BY_DEFAULT,
    ) -> None:
        self.version = logged_with
        self._predict_alone = predict
        self._chosen = batching
        self._batcher: Batcher[np.ndarray, np.ndarray] = Batcher(
            predict, join=np.concatenate, split=_split, max_rows=MAX_BATCH
        )
        self.arrivals = self._batcher.arrivals
        self._shape: ImageShape = with_size(parse_image_shape(input_shape), options.size)
        self._labels = labels
        self._limits = limits
        self._max_levels = max_levels
        self._options = options
        self._bytes_per_pixel = self._free_pixels = 0  # until measured

    @property
    def batching(self) -> Batching:
        """Whether requests share predictions; off once the model has returned scores without one row per image."""
        return self._chosen if self._batcher.is_row_by_row else Batching(False, _NOT_ROW_BY_ROW)

    def warm_up(self) -> bool:
        """Labels a black image file; raises ValueError if the scores do not match the labels."""
        check_formats(self._limits.further_formats)
        image = decode_image(make_black_image(), self._shape, limits=self._limits, options=self._options)
        scores = self._predict(image)
        if scores.ndim != 2 or scores.shape[1] < 2:
            raise ValueError(f"the model's output for one image has the shape {scores.shape}, not one score per label")
        if missing := [index for index in range(scores.shape[1]) if str(index) not in self._labels]:
            raise ValueError(f"the model has {scores.shape[1]} classes, but class {missing[0]} has no label")
        return True

    def label_images(self, images: Sequence[bytes], top: int | None) -> list[dict[str, Any]]:
        """Returns the label with the highest score for each image file, and the `top` best scores if requested."""
        # One by one: if the model takes any size, images do not fit into one array.
        return [self._describe(self._label(image), top) for image in images]

    def keep_room(self, available_bytes: int, threads: int) -> int:
        """Measures what a prediction needs for each pixel; batches get at most half of what is available."""
        side = (self._shape.height or _OPEN_SIDE, self._shape.width or _OPEN_SIDE, self._shape.channels)
        pixels = side[0] * side[1]
        per_image = self._measured(side, available_bytes // 2)
        self._bytes_per_pixel = math.ceil(per_image / pixels)
        if not self._chosen.is_on:
            self._free_pixels = pixels
            return threads * per_image
        images = min(MAX_BATCH, max(1, available_bytes // 2 // per_image))
        self._batcher.max_rows = images
        self._free_pixels = pixels
        return images * per_image

    def _measured(self, side: tuple[int, int, int], most_bytes: int) -> int:
        """Returns what a prediction needs for each image, measured with batches that need no more than `most_bytes`."""
        per_image = 4 * math.prod(side)
        for images in _MEASURED_IMAGES:
            if images * per_image <= most_bytes:
                batch = np.zeros((images, *side), dtype="float32")
                risen = peak_bytes(partial(self._predict_alone, batch)) or 0
                # The memory for one image was already needed to warm up.
                per_image = max(per_image, int(_MARGIN * risen / (images - 1)))
        return per_image

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        """MLflow's protocol, for tensors in JSON."""
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise RequestError(415, "Send application/json here, or an image file to /predict_image.")
        with current_reservation().working(json_cost(body)):
            scores = self._predict(self._parse_tensor(body))
            current_reservation().need(answer_cost(scores))
            return ScoringResponse(200, json.dumps({"predictions": scores.tolist()}), "application/json")

    def _label(self, image: bytes) -> np.ndarray:
        reservation = current_reservation()
        with reservation.working(HEADER_BYTES):
            opened = open_image(image, self._limits)
        cost = decoding_cost(opened, self._shape)
        with reservation.working(cost):
            batch = decode_opened(opened, self._shape, self._options)
            reservation.need(batch.nbytes - cost)
            scores: np.ndarray = self._predict(batch)[0]
            return scores

    def _predict(self, batch: np.ndarray) -> np.ndarray:
        pixels = batch.shape[0] * batch.shape[1] * batch.shape[2]
        # One image of the measured size has its room already.
        current_reservation().need(self._bytes_per_pixel * max(0, pixels - self._free_pixels))
        if not self._chosen.is_on:
            return self._predict_alone(batch)
        return self._batcher.predict(batch, kind=batch.shape[1:], count=len(batch))

    def _describe(self, scores: np.ndarray, top: int | None) -> dict[str, Any]:
        best = self._labels[str(scores.argmax())]
        if top is None:
            return {"label": best}
        order = np.argsort(-scores, kind="stable")[:top]
        return {"label": best, "top": [{"label": self._labels[str(i)], "score": float(scores[i])} for i in order]}

    def _parse_tensor(self, body: bytes) -> np.ndarray:
        try:
            document = parse_json(body, current_reservation(), max_levels=self._max_levels)
        except ValueError as error:  # also raised for invalid UTF-8
            raise RequestError(400, "The body is not valid JSON.") from error
        named = document if isinstance(document, dict) else {}
        given = [named[key] for key in ("instances", "inputs") if key in named]
        if len(given) != 1:
            raise RequestError(400, 'The body must be {"instances": …} or {"inputs": …} with a batch of images.')
        try:
            batch: np.ndarray = np.asarray(given[0], dtype="float32")
        except (ValueError, TypeError) as error:
            raise RequestError(400, "The images are not arrays of numbers of equal size.") from error
        expected = (None, self._shape.height, self._shape.width, self._shape.channels)
        fits = batch.ndim == 4 and all(want in (None, got) for want, got in zip(expected, batch.shape, strict=True))
        if not fits or not batch.size:
            wanted = " x ".join("any" if side is None else str(side) for side in expected)
            raise RequestError(400, f"The model requires images of shape {wanted}, not {batch.shape}.")
        return batch


def _split(scores: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    if not isinstance(scores, np.ndarray) or not scores.ndim or len(scores) != sum(counts):
        raise ValueError(_NOT_ROW_BY_ROW)
    return np.split(scores, np.cumsum(counts)[:-1])


def read_labels(file: Path) -> dict[str, Any]:
    """Returns the labels by class number ("0", "1", …), as normalized when the image was built."""
    return dict(json.loads(file.read_text(encoding="utf-8")))
