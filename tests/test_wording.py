"""The patterns of tests/support/wording.py: what they find, and what they leave alone."""

from __future__ import annotations

import pytest

from support.wording import COVERED, HABITS, NOT_COVERED, ROOT, find, prose


def habits_in(text: str, path: str = "page.md") -> list[str]:
    return [hit.habit.name for hit in find(path, text)]


SLIPS = {
    "things that stand, hang, lie": "The prices stand in a file",
    "say/tell without an object": "`plan` tells what a month costs",
    "asking machines": "AWS could not be asked for it; it asks again",
    "is no X": "That path is no file.",
    "wants / shall / may": "enable_execute_command wants task_role_arn",
    "taking away, making, putting": "`delete` takes all of it away",
    "trying": "this was not tried on AWS",
    "the one before": "rollback returns to the version before",
    "whoever": "whoever deploys can do that",
    "own, of yours": "a load balancer of yours",
}


@pytest.mark.parametrize("habit", [habit.name for habit in HABITS])
def test_each_habit_is_found(habit: str) -> None:
    assert habits_in(SLIPS[habit]) == [habit]


@pytest.mark.parametrize(
    "text",
    [
        "ask your security team",
        "your own BentoML service",
        "There is no state file.",
        "it is no longer needed",
        "if you want to try it",
        "AWS may be newer than boto3",
        "tell the agent",
    ],
)
def test_plain_english_is_left_alone(text: str) -> None:
    assert habits_in(text) == []


def test_recorded_output_in_a_document_is_not_read() -> None:
    page = "whoever\n```text\nwhoever\n```\n"

    assert list(prose("page.md", page)) == [(1, "whoever")]
    assert habits_in(page) == ["whoever"]


def test_strings_comments_and_test_names_of_python_are_read_and_code_is_not() -> None:
    code = "whoever = 1  # whoever\ntext = '''a\nof yours'''\ndef test_the_version_before_is_kept(): pass\n"

    assert [(hit.line, hit.habit.name) for hit in find("module.py", code)] == [
        (1, "whoever"),
        (3, "own, of yours"),
        (4, "the one before"),
    ]


def test_every_covered_place_exists() -> None:
    assert [place for place in (*COVERED, *NOT_COVERED) if not (ROOT / place).exists()] == []
