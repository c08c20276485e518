"""Progress: lines that a person can follow, on a terminal and elsewhere."""

from __future__ import annotations

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mlflow_fargate.errors import FargateError
from mlflow_fargate.progress import PlainProgress, RecordedProgress, TerminalProgress, noting_interruption, wrap
from mlflow_fargate.progress import shorten_arns as shorten

ELB = "arn:aws:elasticloadbalancing:us-east-1:123456789012"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (f"in (target-group {ELB}:targetgroup/mlf-churn-ab12/73e2d6bc24d8a067)", "in (target-group mlf-churn-ab12)"),
        (f"{ELB}:loadbalancer/app/shared/0a1b.", "shared."),
        (f"{ELB}:listener-rule/app/shared/0a1b/8c9d/1e2f is in use", "shared is in use"),
        ("arn:aws:iam::123456789012:role/ml/churn, none", "ml/churn, none"),
        ("arn:aws-us-gov:ecs:us-gov-west-1:123456789012:service/main/churn", "main/churn"),
        ("arn:aws:secretsmanager:us-east-1:123456789012:secret:mlflow-fargate/key-AbCd", "mlflow-fargate/key-AbCd"),
        ("arn:aws:sns:us-east-1:123456789012:alerts", "alerts"),
        ("(task 51a3ac1d91c94ac29d4e4e1a51bd6ae0)", "(task 51a3ac1d91c94ac29d4e4e1a51bd6ae0)"),
    ],
)
def test_an_arn_is_shortened_to_the_name_of_its_resource(text: str, short: str) -> None:
    assert shorten(text) == short


words = st.lists(st.text("abc/:-.", min_size=1, max_size=30), min_size=1, max_size=20).map(" ".join)


@given(words, st.integers(20, 100), st.sampled_from(["", "  ", "    "]))
def test_wrapping_breaks_no_word_and_keeps_lines_within_the_width(text: str, width: int, indent: str) -> None:
    lines = wrap(f"{indent}{text}", width).splitlines()

    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    assert all(line.startswith(f"{indent}  ") for line in lines[1:])


@pytest.mark.parametrize("hostile", ["\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\rdone", "\u202eexe.txt", "\x08\x08"])
def test_no_control_character_of_others_reaches_a_terminal(hostile: str) -> None:
    stream = io.StringIO()
    terminal = TerminalProgress(Console(file=stream, width=200, force_terminal=True, color_system=None))
    for progress in (PlainProgress(stream), terminal):
        progress.step(f"a {hostile}")
        progress.note(f"b {hostile}")
        with progress.waiting(f"c {hostile}") as update, progress.transfer(f"d {hostile}", 1):
            update(f"e {hostile}")
    shown = stream.getvalue() + FargateError(f"f {hostile}", hint=f"g {hostile}").format_message()

    assert hostile not in shown
    assert FargateError("\x1b[31mred\x1b[0m\tand\nblack").message == "red\tand\nblack"


def test_a_terminal_gets_long_lines_wrapped_below_their_text() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, width=40))

    progress.note("ECS: (service churn) has started 1 tasks in the cluster")

    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "  ECS: (service churn) has",
        "    started 1 tasks in the",
        "    cluster",
    ]


def test_a_long_wait_without_a_terminal_adds_lines_that_say_what_is_awaited() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, silent_seconds=(0.02, 0.05))

    with progress.waiting("waiting for ECS") as update:
        _wait_for(stream, "waiting for ECS (0 s)")
        update("waiting for ECS: 0 of 1 new tasks running")
        _wait_for(stream, "0 of 1 new tasks running (")
    ended = stream.getvalue()

    time.sleep(0.12)
    assert stream.getvalue() == ended


def test_a_wait_in_which_other_lines_appear_adds_none() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, silent_seconds=(0.5, 0.5))

    with progress.waiting("waiting for ECS"):
        for number in range(8):
            progress.note(f"fact {number}")
            time.sleep(0.1)

    assert "waiting" not in stream.getvalue()


def test_a_terminal_shows_what_is_awaited_and_leaves_no_line_of_it() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, width=80, force_terminal=True, highlight=False))

    with progress.waiting("waiting for [ECS]") as update:
        update("1 of 2 [new] tasks running")
        _wait_for(stream, "1 of 2 [new] tasks running (0 s)")
        progress.note("ECS: has started 1 tasks")

    assert "ECS: has started 1 tasks" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")  # the spinner's line is erased


def test_a_transfer_within_a_wait_shows_its_bar_on_a_terminal() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, width=80, force_terminal=True, highlight=False))

    with progress.waiting("converting the model"), progress.transfer("model files", 10) as advance:
        advance(10)

    assert "model files: 10 B" in stream.getvalue()


def test_an_interruption_says_how_things_are_and_goes_on() -> None:
    progress = RecordedProgress()

    with pytest.raises(KeyboardInterrupt), noting_interruption(progress, "partly applied", "undo with: x"):
        raise KeyboardInterrupt

    assert progress.lines == ["partly applied", "undo with: x"]


def _wait_for(stream: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.01)
