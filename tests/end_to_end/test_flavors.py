"""Models of the flavors that we name: logged, deployed to the local stack, asked, and answered as in the process."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from deployed_services import ROOT, deployed, post
from flavor_models import LIBRARIES

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

WHY_NOT = {
    "pytorch": "PyPI has PyTorch for x86-64 with 3 GB of CUDA only; its CPU index is elsewhere (extra_index_urls)",
}


def log_model(flavor: str) -> dict[str, Any]:
    """What tests/flavor_models.py says of the model that it has logged."""
    command = [sys.executable, "-m", "tests.flavor_models", flavor]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("flavor", LIBRARIES)
def test_a_deployed_model_predicts_what_it_predicts_in_the_process(local_stack: dict[str, str], flavor: str) -> None:
    library = LIBRARIES[flavor]
    if library and not importlib.util.find_spec(library):
        pytest.skip(WHY_NOT.get(flavor, f"{library} is not installed; make test-all installs it"))
    logged = log_model(flavor)

    with deployed(flavor, logged["uri"], {}) as url:
        answer = post(f"{url}/invocations", logged["request"])

    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert type(predictions) is type(logged["expected"])
    assert flat(predictions) == flat(logged["expected"])


def flat(predictions: Any) -> list[Any]:
    """Every value, numbers to six digits."""
    if isinstance(predictions, dict):
        return [(key, flat(value)) for key, value in sorted(predictions.items())]
    if isinstance(predictions, list):
        return [flat(one) for one in predictions]
    return [float(np.format_float_scientific(predictions, 5))] if isinstance(predictions, float) else [predictions]
