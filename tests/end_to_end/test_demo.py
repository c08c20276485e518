"""The demo as an end-to-end test: runs the same code and checks its results."""

from __future__ import annotations

import contextlib
import io
import sys

import pytest

from support.recording import PICTURE, cut, read, story_of

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]


class Heard(io.StringIO):
    """Records what is printed and also passes it to the original stream."""

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


def test_the_deployed_model_predicts_the_same_as_after_training(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.accuracy_over_http == outcome.accuracy_in_process
    assert outcome.accuracy_over_http >= 0.95


def test_a_redeploy_after_a_promotion_fails_no_request(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.requests_during_redeploy > 100
    assert outcome.failed_requests == 0
    # For a while both versions respond: new tasks are healthy before old ones drain.
    assert (outcome.versions[0], outcome.versions[-1]) == ("1", "2")
    assert set(outcome.versions) == {"1", "2"}


def test_deploying_the_same_model_again_uploads_nothing(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.sent_first != "0 B sent"
    assert outcome.sent_again == "0 B sent"


def test_deleting_leaves_only_the_endpoint(outcome) -> None:  # type: ignore[no-untyped-def]
    assert outcome.left
    assert not any(outcome.left.values()), outcome.left


def test_the_recording_shows_what_the_demo_prints(outcome, printed: io.StringIO) -> None:  # type: ignore[no-untyped-def]
    recorded = story_of(read(PICTURE.read_text("utf-8")))

    # Here the stack is already running and keeps running; the program around the demo prints the last line.
    commands = ("$ mlflow-fargate local", "The local stack", "All checks passed")
    told = [line for line in recorded if not line.startswith(commands)]
    now = [cut(line) for line in story_of(printed.getvalue().splitlines()) if not line.startswith(commands)]
    assert told == now, "make recording"
