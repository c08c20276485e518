"""Progress of long work. Steps report facts; only this module formats them.

`Progress` is the interface. `TerminalProgress` shows bars and a spinner with rich, `PlainProgress` writes one line per
fact (logs, notebooks, CI, pipes), `LoggedProgress` one record each to the process's log, `QuietProgress` only warnings,
and `RecordedProgress` keeps the lines for tests and other callers. All of them write to stderr: stdout is for results.
Times are seconds since the start.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mlflow_fargate.errors import visible

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]
Update = Callable[[str], None]
_REPORT_EVERY_SECONDS = 10
_SILENT_SECONDS = (5, 15)  # after this long without a line, one says what is awaited: the first time, and from then on
_TIME_WIDTH = len("9999.9s  ")
_ARN = re.compile(r"arn:aws[\w-]*:[\w-]+:[\w-]*:\d*:(?P<resource>[\w+=.@/:-]*[\w+=@/-])")

# stamina warns of each retry. Without any logging handler, Python would print the warnings between our lines; a handler
# that does nothing keeps them available to processes that have set up logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Progress(Protocol):
    """What work reports: the current step, a fact about it, what it waits for, bytes transferred."""

    def step(self, text: str) -> None:
        """Reports that a new step has begun."""

    def note(self, text: str) -> None:
        """Reports a fact about the current step: a service's message, or what was skipped and why."""

    def waiting(self, text: str) -> AbstractContextManager[Update]:
        """Shows that the program is waiting for `text`; the callable it yields replaces that text."""

    def transfer(self, text: str, total_bytes: int | None) -> AbstractContextManager[Advance]:
        """Reports a transfer; call what it yields with each number of bytes moved. `total_bytes` None: unknown."""


class PlainProgress:
    """Writes one line per fact, with the seconds since the start; no cursor movement, for logs and notebooks.

    A wait adds a line after 5 s of silence and then every 15 s, a transfer every 10 s, so that silence does not look
    like a hang.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        silent_seconds: tuple[float, float] = _SILENT_SECONDS,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._start = clock()
        self._silent_seconds = silent_seconds
        self._written_at = time.monotonic()

    def step(self, text: str) -> None:
        self._write(text)

    def note(self, text: str) -> None:
        for line in text.splitlines():
            self._write(f"  {line}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[Update]:
        awaited, ended = text, threading.Event()
        began = time.monotonic()

        def update(new: str) -> None:
            nonlocal awaited
            awaited = new

        def report() -> None:
            silence, later = self._silent_seconds
            while not ended.wait(max(0.0, self._written_at + silence - time.monotonic())):
                if time.monotonic() - self._written_at >= silence:
                    self._write(f"  {awaited} ({time.monotonic() - began:.0f} s)")
                    silence = later

        self._written_at = began
        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            yield update
        finally:
            ended.set()
            reporter.join()

    @contextmanager
    def transfer(self, text: str, total_bytes: int | None) -> Iterator[Advance]:
        moved = 0
        began = reported = self._clock()
        of_all = f" of {format_bytes(total_bytes)}" if total_bytes else ""

        def advance(size_bytes: int) -> None:
            nonlocal moved, reported
            moved += size_bytes
            if self._clock() - reported >= _REPORT_EVERY_SECONDS and moved != total_bytes:
                reported = self._clock()
                self._report_transfer(f"  {text}: {format_bytes(moved)}{of_all}")

        yield advance
        self._write(f"  {text}: {format_bytes(moved)} in {self._clock() - began:.1f} s")

    def _report_transfer(self, line: str) -> None:
        self._write(line)

    def _write(self, line: str) -> None:
        self._written_at = time.monotonic()
        self._print(visible(line))

    def _print(self, line: str) -> None:
        # sys.stderr is looked up at each line: notebooks and pytest replace it.
        # One write per line: steps report from several threads.
        stream = self._stream or sys.stderr
        stream.write(f"[{self._clock() - self._start:6.1f}s] {line}\n")
        stream.flush()


class TerminalProgress(PlainProgress):
    """The same lines, with a bar for each transfer and a spinner while waiting; long lines wrap between words."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True, highlight=False)

    def step(self, text: str) -> None:
        self._print(visible(text), style="bold")

    @contextmanager
    def waiting(self, text: str) -> Iterator[Update]:
        columns = (TextColumn(" " * 8), SpinnerColumn(), TextColumn("{task.description} ({task.elapsed:.0f} s)"))
        with Bar(*columns, console=self._console, transient=True) as spinner:
            task = spinner.add_task(escape(visible(text)), total=None)
            yield lambda new: spinner.update(task, description=escape(visible(new)))

    @contextmanager
    def transfer(self, text: str, total_bytes: int | None) -> Iterator[Advance]:
        columns = (TextColumn("         {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Bar(*columns, console=self._console, transient=True) as bar, super().transfer(text, total_bytes) as count:
            task = bar.add_task(escape(visible(text)), total=total_bytes)

            def advance(size_bytes: int) -> None:
                count(size_bytes)
                bar.advance(task, size_bytes)

            yield advance

    def _report_transfer(self, line: str) -> None:
        """Nothing: the bar shows it."""

    def _print(self, line: str, style: str | None = None) -> None:
        elapsed = f"{self._clock() - self._start:6.1f}s  "
        text = wrap(line, self._console.width - _TIME_WIDTH).replace("\n", "\n" + " " * _TIME_WIDTH)
        self._console.print(f"{elapsed}{text}", style=style, markup=False, soft_wrap=True)


class LoggedProgress(PlainProgress):
    """The same lines as records of this module's logger, for a process whose log has a format."""

    def _print(self, line: str) -> None:
        logger.info("%s", line.strip())


class QuietProgress(PlainProgress):
    """Writes only warnings."""

    def _print(self, line: str) -> None:
        if line.strip().lower().startswith("warning"):
            super()._print(line)


class RecordedProgress:
    """Keeps what was reported: `lines` in order, `moved_bytes` by transfer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moved_bytes: dict[str, int] = {}

    def step(self, text: str) -> None:
        self.lines.append(text)

    def note(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def waiting(self, text: str) -> Iterator[Update]:
        yield lambda new: None

    @contextmanager
    def transfer(self, text: str, total_bytes: int | None) -> Iterator[Advance]:
        self.moved_bytes.setdefault(text, 0)

        def advance(size_bytes: int) -> None:
            self.moved_bytes[text] += size_bytes

        yield advance


@contextmanager
def noting_interruption(progress: Progress, *lines: str) -> Iterator[None]:
    """On Ctrl-C, reports `lines` (what is done and what is left) and lets the interruption continue."""
    try:
        yield
    except KeyboardInterrupt:
        for line in lines:
            progress.note(line)
        raise


def progress_for_stderr(*, quiet: bool = False, environ: Mapping[str, str] = os.environ) -> Progress:
    """Returns bars on a terminal, log records in a process that has set up logging, and plain lines elsewhere.

    With `quiet`, or MLFLOW_FARGATE_QUIET=1 in the environment, only warnings are written.
    """
    if quiet or environ.get("MLFLOW_FARGATE_QUIET", "0").lower() not in ("", "0", "false"):
        return QuietProgress()
    if sys.stderr.isatty():
        return TerminalProgress()
    # A level alone, which libraries set too, is not a log: without a handler the lines would be lost.
    has_log = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()
    return LoggedProgress() if has_log else PlainProgress()


def wrap(line: str, width: int) -> str:
    """Breaks `line` between words and indents the rest by two; a word longer than `width` stays whole."""
    indent = line[: len(line) - len(line.lstrip())]
    wrapped = textwrap.wrap(
        line, max(width, 20), subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapped) or line


def shorten_arns(text: str) -> str:
    """Returns `text` with each ARN reduced to the name of its resource: 'targetgroup/churn/0a1b' becomes 'churn'."""
    return _ARN.sub(lambda found: _resource_name(found["resource"]), text)


def _resource_name(resource: str) -> str:
    kind, *rest = re.split(r"[/:]", resource)
    if kind in ("targetgroup", "loadbalancer", "listener", "listener-rule"):
        return next((part for part in rest if part != "app"), resource)
    return resource.removeprefix(f"{kind}/").removeprefix(f"{kind}:") if rest else resource


def format_bytes(size_bytes: int) -> str:
    """Returns '27.8 MB': decimal units, as registries and AWS use."""
    if size_bytes < 10**3:
        return f"{size_bytes} B"
    if size_bytes < 10**6:
        return f"{size_bytes / 10**3:.1f} kB"
    if size_bytes < 10**9:
        return f"{size_bytes / 10**6:.1f} MB"
    return f"{size_bytes / 10**9:.2f} GB"
