"""The image classifier around a network that is a plain function."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest

from fargate_service.errors import RequestError
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.reservation import new_reservation
from fargate_service.models.image_classifier import ImageClassifier
from fargate_service.models.image_decoding import DecodingOptions, make_black_image
from fargate_service.models.loaded_model import Batching

LABELS = {"0": "dark", "1": "light"}
ON = Batching(True, "the layers are known")
OFF = Batching(False, "a layer is not known")


def brightness(batch: np.ndarray) -> np.ndarray:
    light = batch.mean(axis=(1, 2, 3))
    return np.stack([1 - light, light], axis=1)


def classifier(predict: Any = brightness, labels: Any = LABELS, batching: Batching = ON) -> ImageClassifier:
    return ImageClassifier(predict, (None, 2, 2, 3), labels, logged_with="3.17.2", batching=batching)


def test_the_label_with_the_highest_score_is_returned() -> None:
    assert classifier().label_images([make_black_image()], None) == [{"label": "dark"}]


def test_instances_and_inputs_are_scored() -> None:
    white = np.ones((1, 2, 2, 3)).tolist()

    for key in ("instances", "inputs"):
        answer = classifier().invoke(json.dumps({key: white}).encode(), "application/json; charset=utf-8")
        assert json.loads(answer.body) == {"predictions": [[0.0, 1.0]]}


@pytest.mark.parametrize(
    "document",
    [
        "{",
        "[]",
        "{}",
        '{"inputs": [], "instances": []}',
        '{"inputs": [[1, 2]]}',
        '{"inputs": [[1], [1, 2]]}',
        '{"inputs": [[[["a"]]]]}',
        '{"inputs": []}',
        '{"inputs": null}',
    ],
)
def test_a_body_that_is_not_a_batch_of_images_is_rejected(document: str) -> None:
    with pytest.raises(RequestError) as refused:
        classifier().invoke(document.encode(), "application/json")

    assert refused.value.status == 400


def test_content_types_other_than_json_are_rejected() -> None:
    with pytest.raises(RequestError) as refused:
        classifier().invoke(b"a,b", "text/csv")

    assert refused.value.status == 415


def test_a_class_without_a_label_is_reported_at_startup() -> None:
    with pytest.raises(ValueError, match="class 1 has no label"):
        classifier(labels={"0": "dark"}).warm_up()


def test_a_model_with_one_score_is_reported_at_startup() -> None:
    with pytest.raises(ValueError, match="not one score per label"):
        classifier(predict=lambda batch: batch.mean(axis=(1, 2, 3))[:, np.newaxis]).warm_up()


def test_the_best_labels_are_returned_with_their_scores_on_request() -> None:
    answer = classifier().label_images([make_black_image()], 5)

    assert answer == [
        {"label": "dark", "top": [{"label": "dark", "score": 1.0}, {"label": "light", "score": 0.0}]},
    ]


def test_an_image_size_fixes_what_the_model_leaves_open() -> None:
    seen = []

    def predict(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape)
        return brightness(batch)

    anything = ImageClassifier(
        predict,
        (None, None, None, 3),
        LABELS,
        logged_with="",
        batching=ON,
        options=DecodingOptions(size=(7, 9)),
    )
    anything.warm_up()

    assert seen == [(1, 7, 9, 3)]


def test_a_size_other_than_the_models_is_reported_at_startup() -> None:
    with pytest.raises(ValueError, match="not 7 x 9"):
        ImageClassifier(
            brightness,
            (None, 2, 2, 3),
            LABELS,
            logged_with="",
            batching=ON,
            options=DecodingOptions(size=(7, 9)),
        )


class Network:
    """Predicts with `scores`; the first call waits for three callers, so that the others share one call."""

    def __init__(self, scores: Any) -> None:
        self.calls: list[int] = []
        self.go_on = threading.Event()
        self._scores = scores

    def __call__(self, batch: np.ndarray) -> Any:
        self.calls.append(len(batch))
        self.go_on.wait(30)
        return self._scores(batch)


def answers_of_three(network: Network, batching: Batching) -> tuple[ImageClassifier, list[Any]]:
    served = classifier(network, batching=batching)
    bodies = [json.dumps({"inputs": np.full((1, 2, 2, 3), shade).tolist()}).encode() for shade in (0.0, 0.25, 1.0)]
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(served.invoke, body, "application/json") for body in bodies]
        while len(network.calls) + len(served._batcher._waiting) < 3:
            threading.Event().wait(0.001)
        network.go_on.set()
        return served, [json.loads(one.result().body)["predictions"] for one in asked]


THEIR_OWN = [[[1.0, 0.0]], [[0.75, 0.25]], [[0.0, 1.0]]]


def test_images_that_are_known_to_be_independent_share_a_call() -> None:
    network = Network(brightness)

    assert answers_of_three(network, ON)[1] == THEIR_OWN
    assert network.calls == [1, 2]


def test_images_of_other_networks_do_not_share_a_call() -> None:
    network = Network(brightness)

    assert answers_of_three(network, OFF)[1] == THEIR_OWN
    assert network.calls == [1, 1, 1]


def test_scores_without_one_row_per_image_are_not_split() -> None:
    network = Network(lambda batch: brightness(batch) if len(batch) == 1 else brightness(batch).repeat(2, axis=0))

    served, answers = answers_of_three(network, ON)

    assert answers == THEIR_OWN
    assert network.calls == [1, 2, 1, 1]
    assert str(served.batching) == "off: the model's scores do not have one row per image"


def test_a_batch_is_bounded_by_what_a_prediction_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(work: partial[np.ndarray]) -> int:
        return len(work()) * 4 * 10**6

    monkeypatch.setattr("fargate_service.models.image_classifier.peak_bytes", measure)
    model = classifier()

    kept = model.keep_room(100 * 10**6, threads=2)

    assert kept <= 50 * 10**6
    assert 2 <= model._batcher.max_rows < 16


def test_without_shared_predictions_each_thread_has_room_for_one() -> None:
    model = classifier(batching=OFF)

    assert model.keep_room(100 * 10**6, threads=3) % 3 == 0


def test_more_images_in_a_request_than_measured_need_more_memory() -> None:
    model = classifier(batching=OFF)
    model.keep_room(100 * 10**6, threads=1)
    budget = MemoryBudget()
    budget.open(10**6)
    many = json.dumps({"instances": np.zeros((2000, 2, 2, 3)).tolist()}).encode()

    with pytest.raises(RequestError) as refused, new_reservation(budget):
        model.invoke(many, "application/json")

    assert refused.value.status == 413
    assert budget.used == 0
