"""Converts a model to ONNX and decides whether to serve the result; runs in a separate process.

    python convert.py JOB.json

with the packages of the model's service and the converters of libraries.py on the path. The job contains

    model_dir, into      the MLflow model; the folder for MLmodel, the input example and what `save_onnx` writes
    template             how it will be served; `image_classifier` is loaded without MLflow
    tolerance            the maximum difference from the model's predictions (comparison.py)

into/verdict.json, written last, contains {"is_equal": …, "reason": …}. If not equal, it is the only file there.

    original    the model itself, and its inputs          made_up_inputs  generated inputs
    libraries   the converter for each model              comparison      the difference of predictions
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import difference, possible_forms
from libraries import Candidate
from original import CannotConvert, Original, load_original

from fargate_service.models.loaded_model import EXAMPLE_FILE
from fargate_service.models.onnx_answer import AnswerForm
from fargate_service.models.onnx_loading import OnnxModel, save_onnx

VERDICT_FILE = "verdict.json"
_KEPT_FILES = ("MLmodel", EXAMPLE_FILE)
_SHOWN_CHARACTERS = 300

Question = tuple[Any, Any]  # an input, and the original's prediction


@dataclass(frozen=True)
class Reason:
    """Why a candidate is not used."""

    distance: float
    text: str
    is_failure: bool = False  # nothing was compared


def main(job: dict[str, Any]) -> None:
    model_dir, into = Path(job["model_dir"]), Path(job["into"])
    try:
        original = load_original(model_dir, template=job["template"])
        verdict = convert(original, model_dir, into, tolerance=job["tolerance"])
    except CannotConvert as error:
        verdict = {"is_equal": False, "reason": str(error)}
    except Exception as error:  # any error of a library is reported as the reason
        verdict = {"is_equal": False, "reason": _first_words(error)}
    (into / VERDICT_FILE).write_text(json.dumps(verdict), encoding="utf-8")


def convert(original: Original, model_dir: Path, into: Path, *, tolerance: float) -> dict[str, Any]:
    """Returns the verdict; if equal, the converted model is in `into`."""
    questions = ask(original, original.inputs)
    if not questions:
        raise CannotConvert("the model itself fails on all generated inputs")
    reasons: list[Reason] = []
    for candidate in original.candidates:
        try:
            distance, form = find_form(original, candidate, questions)
            if distance <= tolerance:
                form = with_gaps(original, candidate, form, tolerance=tolerance)
                form = dataclasses.replace(form, why_alone=original.why_alone)
                save(candidate, form, model_dir, into)
                return {"is_equal": True, "reason": describe(original, distance, form)}
            reasons.append(Reason(distance, f"predictions differ by {distance:.1e}, more than {tolerance:g}"))
        except CannotConvert as error:
            reasons.append(Reason(math.inf, str(error)))
        except Exception as error:  # the next candidate may work
            reasons.append(Reason(math.inf, _first_words(error), is_failure=True))
    nearest = min(reasons, key=lambda one: (one.is_failure, one.distance), default=None)
    return {"is_equal": False, "reason": nearest.text if nearest else "there is no converter for this model"}


def ask(original: Original, inputs: Sequence[Any]) -> list[Question]:
    """Returns the inputs that the model accepts, with its predictions; models can reject missing or unknown values."""
    questions: list[Question] = []
    for data in inputs:
        try:
            questions.append((data, original.predict(data)))
        except Exception:  # noqa: S112  # inputs that the model rejects cannot be compared
            continue
    return questions


def find_form(original: Original, candidate: Candidate, questions: Sequence[Question]) -> tuple[float, AnswerForm]:
    """Returns the closest answer form, and the largest difference of its predictions from the original's."""
    data, answer = questions[0]
    outputs = OnnxModel(candidate.model(), candidate.form, cpus=1).compute(data)
    forms = possible_forms(candidate.form, outputs, answer)
    distances = [(_distance(original, candidate, form, questions), form) for form in forms]
    distance, form = min(distances, key=lambda one: one[0])
    if math.isinf(distance):
        raise CannotConvert("predictions differ from the model's in class or shape")
    return distance, form


def with_gaps(original: Original, candidate: Candidate, form: AnswerForm, *, tolerance: float) -> AnswerForm:
    """Returns `form`, accepting missing numbers only if the predictions for them match the model's."""
    questions = ask(original, [] if original.gaps is None else [original.gaps])
    taking = dataclasses.replace(form, takes_gaps=True)
    if original.gaps is None or (questions and _distance(original, candidate, taking, questions) <= tolerance):
        return taking
    if original.needs_gaps and questions:
        raise CannotConvert("predictions differ for missing values, which the signature allows")
    return form


def save(candidate: Candidate, form: AnswerForm, model_dir: Path, into: Path) -> None:
    """Writes the files that the service loads, and the description of its model."""
    save_onnx(candidate.model(), form, into)
    for name in _KEPT_FILES:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, into / name)


def describe(original: Original, distance: float, form: AnswerForm) -> str:
    """Returns why the converted model is used, in words."""
    asked = "the input example and generated inputs" if original.has_example else "generated inputs"
    refused = "" if form.takes_gaps else "; requests with missing values are rejected"
    return f"predictions for {asked} differ by at most {distance:.1e}{refused}"


def _distance(original: Original, candidate: Candidate, form: AnswerForm, questions: Sequence[Question]) -> float:
    served = original.as_served(OnnxModel(candidate.model(), form, cpus=1))
    return max(difference(theirs, served(data)) for data, theirs in questions)


def _first_words(error: Exception) -> str:
    words = f"{type(error).__name__}: {error}".splitlines()[0]
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[: _SHOWN_CHARACTERS - 1]}…"


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
