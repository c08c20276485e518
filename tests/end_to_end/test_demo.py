"""The demo is the end-to-end test: the same code, and what it found has to be as it should."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def outcome(local_stack: dict[str, str]) -> object:
    from examples import demo

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
