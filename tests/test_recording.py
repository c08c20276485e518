"""How the demo is recorded; end_to_end/test_demo.py checks that the recording shows what the demo prints."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.recording import COLUMNS, PICTURE, Line, cut, draw, read, record, story_of

LINES = [Line(0.0, "[   0.0s] Deploy <it> & ask"), Line(0.1, "$ mlflow deployments create"), Line(90.0, "  done")]


def test_the_recording_shows_the_whole_demo() -> None:
    told = story_of(read(PICTURE.read_text("utf-8")))

    assert told[0].startswith("The local stack")
    assert told[-1] == "All checks passed"
    assert PICTURE.stat().st_size < 200_000


def test_the_recording_contains_nothing_of_this_machine() -> None:
    lines = "\n".join(read(PICTURE.read_text("utf-8")))

    assert not re.findall(r"(?<![\w.~/])/(?:home|root|tmp|Users)/", lines)
    assert set(re.findall(r"https?://([\w.-]+)", lines)) == {"127.0.0.1"}


def test_long_waits_are_shortened_and_every_line_can_be_read() -> None:
    style = draw(LINES)

    shown = [float(percent) for percent in re.findall(r"^([\d.]+)% ", style, re.MULTILINE)]
    found = re.search(r"scroll ([\d.]+)s", style)
    assert found
    assert [float(found[1]) * percent / 100 for percent in shown] == pytest.approx([0.0, 0.12, 1.32], abs=0.01)


@given(st.lists(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cn", "Co"])), min_size=1))
def test_every_line_is_in_the_picture(texts: list[str]) -> None:
    texts = ["begin", *texts]
    drawn = read(draw([Line(float(number), text) for number, text in enumerate(texts)]))

    assert drawn == [cut(text) for text in texts]
    assert all(len(line) <= COLUMNS for line in drawn)


def test_the_story_has_headlines_and_commands_without_times() -> None:
    assert story_of(line.text for line in LINES) == ["Deploy <it> & ask", "$ mlflow deployments create"]


def test_a_demo_that_fails_is_not_recorded() -> None:
    with pytest.raises(SystemExit, match="exit code 3"):
        record([sys.executable, "-c", "print('so far'); raise SystemExit(3)"])


def test_the_picture_is_well_formed_and_animated() -> None:
    picture = PICTURE.read_text("utf-8")

    ElementTree.fromstring(picture)
    assert "@keyframes" in picture
    assert "prefers-reduced-motion" in picture
