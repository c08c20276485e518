"""A model converted to ONNX, and what speaks for or against serving it so: run in a process of its own.

    python convert.py JOB.json

with the packages of the model's service and the converters of libraries.py in reach. The job says

    model_dir, into      the MLflow model; the folder for MLmodel, the input example and what `save_onnx` writes
    template             how it will be served; `image_classifier` is loaded without MLflow
    tolerance            how far an answer may be from the model's own (comparison.py)

and into/verdict.json, written last, says {"is_equal": …, "reason": …}. Nothing else is left where it is not equal.

    original    the model itself, and what it is asked      made_up_inputs  what else it is asked
    libraries   who converts what                           comparison      how far apart are the answers
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

Question = tuple[Any, Any]  # what is asked, and what the original answers


@dataclass(frozen=True)
class Reason:
    """Why a candidate is not used."""

    distance: float
    text: str
    is_failure: bool = False  # nothing could be compared


def main(job: dict[str, Any]) -> None:
    model_dir, into = Path(job["model_dir"]), Path(job["into"])
    try:
        original = load_original(model_dir, template=job["template"])
        verdict = convert(original, model_dir, into, tolerance=job["tolerance"])
    except CannotConvert as error:
        verdict = {"is_equal": False, "reason": str(error)}
    except Exception as error:  # whatever a library says of a model is a reason, and told
        verdict = {"is_equal": False, "reason": _first_words(error)}
    (into / VERDICT_FILE).write_text(json.dumps(verdict), encoding="utf-8")


def convert(original: Original, model_dir: Path, into: Path, *, tolerance: float) -> dict[str, Any]:
    """The verdict; when equal, the converted model lies in `into`."""
    questions = ask(original, original.inputs)
    if not questions:
        raise CannotConvert("the model itself answers none of the inputs that were made up for it")
    reasons: list[Reason] = []
    for candidate in original.candidates:
        try:
            distance, form = find_form(original, candidate, questions)
            if distance <= tolerance:
                form = with_gaps(original, candidate, form, tolerance=tolerance)
                form = dataclasses.replace(form, why_alone=original.why_alone)
                save(candidate, form, model_dir, into)
                return {"is_equal": True, "reason": describe(original, distance, form)}
            reasons.append(Reason(distance, f"answers differ by {distance:.1e}, more than {tolerance:g}"))
        except CannotConvert as error:
            reasons.append(Reason(math.inf, str(error)))
        except Exception as error:  # the next candidate may do
            reasons.append(Reason(math.inf, _first_words(error), is_failure=True))
    nearest = min(reasons, key=lambda one: (one.is_failure, one.distance), default=None)
    return {"is_equal": False, "reason": nearest.text if nearest else "there is no converter for it"}


def ask(original: Original, inputs: Sequence[Any]) -> list[Question]:
    """The inputs that the model answers, with its answers; some refuse what is missing, or what they never saw."""
    questions: list[Question] = []
    for data in inputs:
        try:
            questions.append((data, original.predict(data)))
        except Exception:  # noqa: S112  # what the model refuses cannot be compared
            continue
    return questions


def find_form(original: Original, candidate: Candidate, questions: Sequence[Question]) -> tuple[float, AnswerForm]:
    """The form of answer that comes nearest, and the largest distance of its answers from the original's."""
    data, answer = questions[0]
    outputs = OnnxModel(candidate.model(), candidate.form, cpus=1).compute(data)
    forms = possible_forms(candidate.form, outputs, answer)
    distances = [(_distance(original, candidate, form, questions), form) for form in forms]
    distance, form = min(distances, key=lambda one: one[0])
    if math.isinf(distance):
        raise CannotConvert("answers are of other classes or shapes than the model's own")
    return distance, form


def with_gaps(original: Original, candidate: Candidate, form: AnswerForm, *, tolerance: float) -> AnswerForm:
    """`form`, which takes missing numbers only where those are answered as the model answers them."""
    questions = ask(original, [] if original.gaps is None else [original.gaps])
    taking = dataclasses.replace(form, takes_gaps=True)
    if original.gaps is None or (questions and _distance(original, candidate, taking, questions) <= tolerance):
        return taking
    if original.needs_gaps and questions:
        raise CannotConvert("answers differ where numbers are missing, which the signature allows")
    return form


def save(candidate: Candidate, form: AnswerForm, model_dir: Path, into: Path) -> None:
    """Writes what the service will load, and what it tells of its model."""
    save_onnx(candidate.model(), form, into)
    for name in _KEPT_FILES:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, into / name)


def describe(original: Original, distance: float, form: AnswerForm) -> str:
    """Why a converted model is used, in words."""
    asked = "the input example and made-up inputs" if original.has_example else "made-up inputs"
    refused = "" if form.takes_gaps else "; requests with missing numbers are refused"
    return f"answers to {asked} differ by {distance:.1e} at most{refused}"


def _distance(original: Original, candidate: Candidate, form: AnswerForm, questions: Sequence[Question]) -> float:
    served = original.as_served(OnnxModel(candidate.model(), form, cpus=1))
    return max(difference(theirs, served(data)) for data, theirs in questions)


def _first_words(error: Exception) -> str:
    words = f"{type(error).__name__}: {error}".splitlines()[0]
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[: _SHOWN_CHARACTERS - 1]}…"


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
