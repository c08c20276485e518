"""How long work tells of itself. Steps call it with facts; only this module draws.

`Progress` is the word; `TerminalProgress` draws bars with rich, `PlainProgress` writes one line a fact (logs,
notebooks, CI, pipes), `LoggedProgress` one record each of the process's own log, `RecordedProgress` keeps the lines for
tests and for callers that show them elsewhere. All of them write to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)

Advance = Callable[[int], None]
_TELL_EVERY_SECONDS = 10

# stamina warns of each retry. Where nobody has set up logging, Python would print its bare words between our lines;
# a handler that does nothing keeps them for those who have.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Progress(Protocol):
    """What a step may say: the step that begins, a fact about it, bytes that move."""

    def step(self, text: str) -> None:
        """A new step of the story has begun."""

    def note(self, text: str) -> None:
        """A fact about the step under way: what the service says, what was left out and why."""

    def transfer(self, text: str, total_bytes: int | None) -> AbstractContextManager[Advance]:
        """Bytes begin to move; call what you get with each number of bytes moved. None: nobody knows how many."""


class PlainProgress:
    """One line a fact, with the seconds since the start; no cursor movement, so it is right for logs and notebooks.

    While bytes move, a line every ten seconds: a pause of minutes looks like a standstill.
    """

    _tells_on_the_way = True

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._start = clock()

    def step(self, text: str) -> None:
        self._write(text)

    def note(self, text: str) -> None:
        for line in text.splitlines():
            self._write(f"  {line}")

    @contextmanager
    def transfer(self, text: str, total_bytes: int | None) -> Iterator[Advance]:
        moved = 0
        began = told = self._clock()
        of_all = f" of {format_bytes(total_bytes)}" if total_bytes else ""

        def advance(size_bytes: int) -> None:
            nonlocal moved, told
            moved += size_bytes
            if self._tells_on_the_way and self._clock() - told >= _TELL_EVERY_SECONDS and moved != total_bytes:
                told = self._clock()
                self._write(f"  {text}: {format_bytes(moved)}{of_all}")

        yield advance
        self._write(f"  {text}: {format_bytes(moved)} in {self._clock() - began:.1f} s")

    def _write(self, line: str) -> None:
        # sys.stderr is looked up at each line: notebooks and pytest replace it.
        # One write a line: steps tell from several threads.
        stream = self._stream or sys.stderr
        stream.write(f"[{self._clock() - self._start:6.1f}s] {line}\n")
        stream.flush()


class TerminalProgress(PlainProgress):
    """The same lines, with a bar while bytes move."""

    _tells_on_the_way = False

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True, highlight=False)

    def step(self, text: str) -> None:
        self._print(text, style="bold")

    @contextmanager
    def transfer(self, text: str, total_bytes: int | None) -> Iterator[Advance]:
        columns = (TextColumn("         {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Bar(*columns, console=self._console, transient=True) as bar, super().transfer(text, total_bytes) as count:
            task = bar.add_task(text, total=total_bytes)

            def advance(size_bytes: int) -> None:
                count(size_bytes)
                bar.advance(task, size_bytes)

            yield advance

    def _write(self, line: str) -> None:
        self._print(line)

    def _print(self, line: str, style: str | None = None) -> None:
        elapsed = self._clock() - self._start
        self._console.print(f"{elapsed:6.1f}s  {line}", style=style, markup=False, soft_wrap=True)


class LoggedProgress(PlainProgress):
    """The same lines as records of this module's logger, for a process whose log has a format."""

    def _write(self, line: str) -> None:
        logger.info("%s", line.strip())


class RecordedProgress:
    """Keeps what was said: `lines` in order, `moved_bytes` by transfer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moved_bytes: dict[str, int] = {}

    def step(self, text: str) -> None:
        self.lines.append(text)

    def note(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def transfer(self, text: str, total_bytes: int | None) -> Iterator[Advance]:
        self.moved_bytes.setdefault(text, 0)

        def advance(size_bytes: int) -> None:
            self.moved_bytes[text] += size_bytes

        yield advance


@contextmanager
def telling_where_it_stands(progress: Progress, *lines: str) -> Iterator[None]:
    """Around what Ctrl-C may cut short: `lines` say in which state things are left; the interruption goes on."""
    try:
        yield
    except KeyboardInterrupt:
        for line in lines:
            progress.note(line)
        raise


def progress_for_stderr() -> Progress:
    """Bars where a person watches a terminal, the log where the process has set one up, plain lines everywhere else."""
    if sys.stderr.isatty():
        return TerminalProgress()
    # A level alone, which libraries set too, is no log: without a handler the lines would be lost.
    has_log = logger.isEnabledFor(logging.INFO) and logger.hasHandlers()
    return LoggedProgress() if has_log else PlainProgress()


def format_bytes(size_bytes: int) -> str:
    """'27.8 MB': decimal units, as registries and AWS count."""
    if size_bytes < 10**3:
        return f"{size_bytes} B"
    if size_bytes < 10**6:
        return f"{size_bytes / 10**3:.1f} kB"
    if size_bytes < 10**9:
        return f"{size_bytes / 10**6:.1f} MB"
    return f"{size_bytes / 10**9:.2f} GB"
