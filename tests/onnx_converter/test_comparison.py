"""How far a converted model's answers are from the model's own, and how its outputs can be read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from comparison import difference, possible_forms

from fargate_service.models.onnx_answer import AnswerForm, shape_answer


@pytest.mark.parametrize(
    ("theirs", "ours", "far"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 2.0], "float32"), 0),
        (np.array([0.25]), np.array([0.5]), 0.25),
        (np.array([1000.0]), np.array([1001.0]), 0.001),  # relative to the value
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf]), math.inf),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), math.inf),
        (np.array([1, 0]), np.array([1, 0], "int32"), 0),
        (np.array([1, 0]), np.array([0, 1]), math.inf),  # a different class is not within any tolerance
        (np.array([1, 0]), np.array([1.0, 0.0]), math.inf),
        (np.array(["yes", "no"]), np.array(["yes", "no"], object), 0),
        (np.array(["yes", "no"]), np.array(["yes", "yes"], object), math.inf),
        (np.zeros((2, 1)), np.zeros(2), math.inf),
        (pd.DataFrame({"x": [1.0]}), np.array([[1.0]]), math.inf),
        (pd.DataFrame({"x": [1.0]}), pd.DataFrame({"y": [1.0]}), math.inf),
        (pd.DataFrame({"x": [1.0]}), pd.DataFrame({"x": [1.5]}), 0.5),
        ([], np.array([]), 0),
    ],
)
def test_answers_differ_by_their_largest_distance(theirs: Any, ours: Any, far: float) -> None:
    assert difference(theirs, ours) == pytest.approx(far)


@pytest.mark.parametrize(
    ("outputs", "answer"),
    [
        ([np.array([[1.5], [2.5]], "float32")], np.array([1.5, 2.5])),  # a regressor's column
        ([np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])], np.array([0, 1])),  # a classifier's labels
        ([np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])], np.array([[0.9, 0.1], [0.2, 0.8]])),  # its scores
        ([np.array([0, 1]), np.array([[0.75, 0.25], [0.5, 0.5]])], np.array([0.25, 0.5])),  # a booster's scores
        ([np.array(["a", "b"], object)], np.array(["a", "b"])),
    ],
)
def test_the_models_own_form_of_answer_is_among_the_possible_ones(outputs: list[Any], answer: Any) -> None:
    fitting = [
        form
        for form in possible_forms(AnswerForm(), outputs, answer)
        if difference(answer, shape_answer(outputs, form)) == 0
    ]

    assert fitting
    assert answer.dtype.kind == "U" or shape_answer(outputs, fitting[0]).dtype == answer.dtype
