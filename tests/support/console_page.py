"""A documentation page whose console blocks are run again and compared with the output shown.

A block begins with ```console; in it `$ COMMAND` is followed by the command's output, and by `(exit code N)` if that is
not 0. A line `…` matches any lines. stderr is reduced to progress steps, without details, and error messages. Values
that differ from run to run (times, IDs, ports) are shown as an example.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)
_PROGRESS = re.compile(r"^\[ *\d+\.\ds\] ", re.MULTILINE)
_STEP = re.compile(r"\[ *\d+\.\ds\] \S")
# Pattern → the example that the page shows for it; the first match is used.
_EXAMPLES = {
    r"127\.0\.0\.1:\d+": "127.0.0.1:8000",
    r"\[ *\d+\.\ds\]": "[  1.0s]",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?": "2026-01-31T12:00:00+00:00",
    r"\d{4}-\d\d-\d\d \d\d:\d\d\b": "2026-01-31 12:00",
    r"; \d+ old tasks? (?:is|are) still draining": "",
    r"\bvpc-[0-9a-f]+": "vpc-" + "e5" * 8 + "0",
    r"\b1[6-9]\d{11}\b": "1769860800000",
    r"ecs-svc/\d+": "ecs-svc/1234567890",
    r"sha256:[0-9a-f]{64}": "sha256:" + "a1" * 32,
    r"\bm-[0-9a-f]{32}\b": "m-" + "c3" * 16,
    r"\b[0-9a-f]{32}\b": "b2" * 16,
    r"\b[0-9a-f]{16}\b": "d4" * 8,
    r"(?<=churn:)\d+\b|(?<=pilot:)\d+\b": "1",
    r"(?<=secret:)[\w/.-]+": "default/churn-a1b2c3",
    r"\b\d+(\.\d+)? (B|kB|MB|GB)\b": "1.5 MB",
    r"\b\d+(\.\d+)? s\b": "1.5 s",
}


def commands_of(page: str) -> list[str]:
    """Returns every command of a page, in order."""
    return [command for block in _BLOCK.findall(page) for command, _ in _split(block)]


def rerun(page: str, run: Callable[[str], str]) -> str:
    """Returns the page with current output; output that still matches is kept. `run` is called in the page's order."""
    return _BLOCK.sub(lambda block: "".join(_again(*one, run) for one in _split(block[1])), page)


def printed(stdout: str, stderr: str, exit_code: int) -> str:
    """Returns what a block shows for a finished command."""
    steps = [line for line in stderr.splitlines() if _STEP.match(line)]
    said = [line for line in stderr.splitlines() if exit_code and not _PROGRESS.match(line)]
    end = [f"(exit code {exit_code})"] if exit_code else []
    return "".join(f"{_example_of(line)}\n" for line in [*steps, *stdout.strip("\n").splitlines(), *said, *end])


def _split(block: str) -> list[tuple[str, str]]:
    commands = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(text.partition("\n")[0], text.partition("\n")[2]) for text in commands]


def _again(command: str, recorded: str, run: Callable[[str], str]) -> str:
    now = run(command)
    return f"$ {command}\n{recorded if _fits(recorded, now) else now}"


def _fits(recorded: str, now: str) -> bool:
    pattern = "".join(r"(?:.*\n)*" if line == "…" else re.escape(line) + r"\n" for line in recorded.splitlines())
    return re.fullmatch(pattern, now) is not None


def _example_of(line: str) -> str:
    pattern = "|".join(f"(?P<example{number}>{looks})" for number, looks in enumerate(_EXAMPLES))

    def replace(found: re.Match[str]) -> str:
        return next(
            example for number, example in enumerate(_EXAMPLES.values()) if found[f"example{number}"] is not None
        )

    return re.sub(pattern, replace, line.rstrip())
