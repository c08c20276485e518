"""The recording of the demo in docs/pictures: an animated picture.

python tests/support/recording.py        runs the demo and records it again (make recording)

The demo's output is recorded line by line, with times, but not what libraries log (stderr). Waits are shortened. The
text in the picture is text, so that a test can compare it with the demo's current output.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import click

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "pictures" / "demo.svg"

COLUMNS, ROWS = 112, 30
_LINE_PIXELS, _CHARACTER_PIXELS, _MARGIN_PIXELS = 18, 7.8, 16
_LONGEST_WAIT_SECONDS, _SHORTEST_WAIT_SECONDS = 1.2, 0.12
_LAST_SECONDS = 6.0  # how long the last screen stays
_HEADLINE, _COMMAND = re.compile(r"\[ *\d+\.\ds\] (?=\S)"), re.compile(r"\$ ")
_STYLE = """\
text {{ font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #c9d1d9; white-space: pre; }}
.headline {{ fill: #79c0ff; font-weight: bold; }}
.command {{ fill: #7ee787; }}
.screen {{ animation: scroll {seconds:.2f}s step-end infinite; transform: translateY({end}px); }}
@media (prefers-reduced-motion: reduce) {{ .screen {{ animation: none; }} }}
@keyframes scroll {{
{steps}
}}
"""
_PICTURE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>make demo: train, deploy, promote, redeploy and clean up</title>
<style>
{style}</style>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<svg x="{margin}" y="{margin}" width="{inner_width}" height="{inner_height}">
<g class="screen">
{lines}
</g>
</svg>
</svg>
"""


class Line(NamedTuple):
    """A printed line, and the seconds since the start."""

    at_seconds: float
    text: str


def record(command: Sequence[str]) -> list[Line]:
    """Runs `command` in the checkout with its own cache and returns what it prints; it must succeed."""
    lines = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "DEMO_EXIT": "1", "MLFLOW_FARGATE_CACHE": cache, "PYTHONUNBUFFERED": "1"}
        began = time.monotonic()
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for text in process.stdout:
                shown = _as_seen(text).replace(cache, "~/.cache/mlflow-fargate")
                lines.append(Line(time.monotonic() - began, shown))
                sys.stderr.write(text)
    if process.returncode:
        raise SystemExit(f"the demo ended with exit code {process.returncode}")
    return lines


def story_of(lines: Iterable[str]) -> list[str]:
    """Returns the headlines and commands among lines, without times and addresses."""
    told = []
    for line in lines:
        if headline := _HEADLINE.match(line):
            told.append(line[headline.end() :])
        elif _COMMAND.match(line):
            told.append(line)
    return told


def draw(lines: Sequence[Line]) -> str:
    """Returns the animated picture of these lines."""
    lines = list(itertools.dropwhile(lambda line: not line.text, lines))
    times = _pace(lines)
    seconds = times[-1] + _LAST_SECONDS
    steps = "\n".join(
        f"{100 * at / seconds:.3f}% {{ transform: translateY({_offset(number)}px); }}"
        for number, at in enumerate(times)
    )
    width, height = int(COLUMNS * _CHARACTER_PIXELS), ROWS * _LINE_PIXELS
    return _PICTURE.format(
        width=width + 2 * _MARGIN_PIXELS,
        height=height + 2 * _MARGIN_PIXELS,
        inner_width=width,
        inner_height=height,
        margin=_MARGIN_PIXELS,
        style=_STYLE.format(seconds=seconds, steps=steps, end=_offset(len(lines) - 1)),
        lines="\n".join(_draw_line(number, line.text) for number, line in enumerate(lines)),
    )


def read(picture: str) -> list[str]:
    """Returns the lines of a picture."""
    texts = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")  # written by draw()
    return [text.text or "" for text in texts]


def cut(text: str) -> str:
    """Returns the line, cut to the width of the picture."""
    return text if len(text) <= COLUMNS else f"{text[: COLUMNS - 1]}…"


def _as_seen(text: str) -> str:
    """Returns what a terminal shows of a line, without its colors."""
    last = re.split(r"[\r\b]+", click.unstyle(text).rstrip())[-1]
    return "".join(character for character in last if character.isprintable())


def _pace(lines: Sequence[Line]) -> list[float]:
    """Returns when each line is shown: long waits are shortened, and lines stay long enough to be read."""
    times, before, shown = [0.0], lines[0].at_seconds, 0.0
    for line in lines[1:]:
        shown += min(max(line.at_seconds - before, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
        before = line.at_seconds
        times.append(shown)
    return times


def _offset(number: int) -> int:
    """Returns how far the text is moved so that this is the last visible line."""
    return (ROWS - 1 - number) * _LINE_PIXELS


def _draw_line(number: int, text: str) -> str:
    kind = ' class="headline"' if _HEADLINE.match(text) else ' class="command"' if _COMMAND.match(text) else ""
    return f'<text y="{(number + 1) * _LINE_PIXELS - 5}"{kind} xml:space="preserve">{escape(cut(text))}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(record([sys.executable, "-m", "examples.demo"])), encoding="utf-8")
    sys.stdout.write(f"recorded: {PICTURE.relative_to(ROOT)}\n")
