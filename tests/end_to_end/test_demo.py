"""The demo is the end-to-end test: the same code, and what it found has to be as it should."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from support.recording import PICTURE, cut, read, story_of

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]


class Heard(io.StringIO):
    """What is printed, which goes on to where it went before."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)
        return super().write(text)


@pytest.fixture(scope="module")
def printed() -> io.StringIO:
    return Heard()


@pytest.fixture(scope="module")
def outcome(local_stack: dict[str, str], printed: io.StringIO) -> object:
    from examples import demo

    with contextlib.redirect_stdout(printed):
        return demo.main()


def test_the_deployed_model_answers_as_it_did_where_it_was_trained(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.accuracy_over_http == outcome.accuracy_in_process
    assert outcome.accuracy_over_http >= 0.95


def test_nobody_notices_the_redeploy_after_a_promotion(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.requests_during_redeploy > 100
    assert outcome.failed_requests == 0
    # In between both answer: new tasks are healthy before old ones drain.
    assert (outcome.versions[0], outcome.versions[-1]) == ("1", "2")
    assert set(outcome.versions) == {"1", "2"}


def test_deploying_the_same_again_sends_nothing(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.sent_first != "0 B sent"
    assert outcome.sent_again == "0 B sent"


def test_deleting_leaves_only_the_endpoint(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.left
    assert not any(outcome.left.values()), outcome.left


def test_the_recording_shows_what_the_demo_prints(outcome, printed: io.StringIO) -> None:  # type: ignore[no-untyped-def]
    recorded = story_of(read(PICTURE.read_text("utf-8")))

    # Here the stack is already running and keeps running; the last line is printed by the program around the demo.
    commands = ("$ mlflow-fargate local", "The local stack", "All checks passed")
    told = [line for line in recorded if not line.startswith(commands)]
    now = [cut(line) for line in story_of(printed.getvalue().splitlines()) if not line.startswith(commands)]
    assert told == now, "make recording"
