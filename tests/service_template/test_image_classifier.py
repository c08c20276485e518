"""The image classifier around a network that is a plain function."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from http_errors import RequestError
from image_classifier import ImageClassifier
from image_decoding import ImageOptions, make_black_image

LABELS = {"0": "dark", "1": "light"}


def brightness(batch: np.ndarray) -> np.ndarray:
    light = batch.mean(axis=(1, 2, 3))
    return np.stack([1 - light, light], axis=1)


def classifier(predict: Any = brightness, labels: Any = LABELS) -> ImageClassifier:
    return ImageClassifier(predict, (None, 2, 2, 3), labels, max_image_pixels=10**6, logged_with="3.17.2")


def test_the_label_with_the_highest_score_answers() -> None:
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
def test_what_is_no_batch_of_images_is_refused(document: str) -> None:
    with pytest.raises(RequestError) as refused:
        classifier().invoke(document.encode(), "application/json")

    assert refused.value.status == 400


def test_other_types_than_json_are_refused() -> None:
    with pytest.raises(RequestError) as refused:
        classifier().invoke(b"a,b", "text/csv")

    assert refused.value.status == 415


def test_a_class_without_a_label_is_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="no label is given for 1"):
        classifier(labels={"0": "dark"}).warm_up()


def test_a_model_with_one_score_is_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="not with a score per label"):
        classifier(predict=lambda batch: batch.mean(axis=(1, 2, 3))[:, np.newaxis]).warm_up()


def test_the_best_labels_come_with_their_scores_when_asked_for() -> None:
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
        max_image_pixels=10**6,
        logged_with="",
        options=ImageOptions(size=(7, 9)),
    )
    anything.warm_up()

    assert seen == [(1, 7, 9, 3)]


def test_another_size_than_the_models_is_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="not of 7 x 9"):
        ImageClassifier(
            brightness, (None, 2, 2, 3), LABELS, max_image_pixels=1, logged_with="", options=ImageOptions(size=(7, 9))
        )
