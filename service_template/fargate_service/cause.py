"""Why the service did not start: the traceback of the model's own code, and one last line that names the cause.

    ModelLoadError: ModuleNotFoundError: No module named 'lightgbm'

The last line is what people see first: mlflow-fargate shows it in errors, tags and notifications, and finds its hint
by it (mlflow_fargate/stop_reasons.py).
"""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from fargate_service.errors import RequestError

_LINE_CHARACTERS = 1000
_SOURCE = Path(__file__).parents[1]
# Their frames say nothing about the model.
_FRAMEWORK = frozenset(
    {"fargate_service", "bentoml", "_bentoml_impl", "_bentoml_sdk", "circus", "simple_di", "starlette", "uvicorn"}
)
_NOT_OPENED = re.compile(r"(/.+?): cannot open shared object file")
_MACHINES = {3: "i386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
# BentoML logs it with the traceback of all frames.
_INITIALIZING_ERROR = "Initializing service error"
_STARTUP_FAILED = "Application startup failed. Exiting."


class StartError(Exception):
    """The service cannot start, because of its `__cause__`; the message, if any, is what else is known about it."""


class ServiceStartError(StartError):
    """The settings or the user's service are at fault."""


class ModelLoadError(StartError):
    """The model does not load."""


class InputExampleError(StartError):
    """The model loads, but fails on its input example."""


def explain_and_exit(error: BaseException, cause: str | None = None) -> NoReturn:
    """Writes the traceback and the cause, by default that of `error`, and exits at once: nothing is written after it.

    A `cause` that is given was explained by another process.
    """
    sys.stderr.flush()
    if cause is None:
        write_explanation(error)
    else:
        sys.stdout.write(f"{cause}\n")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


def write_explanation(error: BaseException) -> str:
    """Writes the traceback and the cause to stdout, as the log; returns the cause."""
    origin = _origin(error)
    explained = traceback.TracebackException.from_exception(origin)
    _remove_framework(explained)
    cause = make_cause(error)
    text = "".join((*explained.format(), cause, "\n"))
    sys.stdout.write(text.encode(errors="backslashreplace").decode())
    return cause


def make_cause(error: BaseException) -> str:
    """Returns the cause of a failed start in one line."""
    kind = type(error).__name__ if isinstance(error, StartError) else ServiceStartError.__name__
    origin = _origin(error)
    line = f"{kind}: {_describe(origin)}{_describe_foreign(_message(origin))}"
    if deeper := _missing_below(origin):
        line += f" (caused by {_describe(deeper)})"
    if isinstance(error, StartError) and str(error):
        line += f" ({error})"
    return line


def explain_in_worker(file: Path) -> None:
    """Makes a worker of BentoML's supervisor explain its failed start, and keep the cause in `file`."""

    def explain(record: logging.LogRecord) -> bool:
        if record.msg != _INITIALIZING_ERROR or not record.exc_info or record.exc_info[1] is None:
            return True
        file.write_text(write_explanation(record.exc_info[1]), encoding="utf-8")
        return False

    logging.getLogger("bentoml.serve").addFilter(explain)


def silence_start() -> None:
    """Keeps BentoML and uvicorn from logging a failed start that is explained anyway."""
    for name in ("bentoml.serve", "uvicorn.error"):
        logging.getLogger(name).addFilter(lambda record: record.msg not in (_INITIALIZING_ERROR, _STARTUP_FAILED))


def _origin(error: BaseException) -> BaseException:
    """Returns the exception that ours was raised for; a RequestError already says what is wrong."""
    is_ours = type(error).__module__.startswith("fargate_service.") and not isinstance(error, RequestError)
    return _origin(error.__cause__) if is_ours and error.__cause__ else error


def _describe(error: BaseException) -> str:
    message = " ".join(_message(error).split())[:_LINE_CHARACTERS]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    """Returns the text of an exception, which its own code makes; empty if that fails."""
    try:
        text = str(error)
    except Exception:
        return ""
    return text.encode(errors="backslashreplace").decode()  # the log has no surrogates


def _describe_foreign(message: str) -> str:
    """Returns for which CPU a library was built that the loader calls missing, though it is there; else an empty text.

    The loader passes over files for other CPUs. Source: elf(5), e_machine.
    """
    named = _NOT_OPENED.match(message)
    try:
        header = Path(named[1]).read_bytes()[:20] if named else b""
    except OSError:
        return ""
    if not header.startswith(b"\x7fELF") or len(header) < 20:
        return ""
    number = int.from_bytes(header[18:20], "big" if header[5] == 2 else "little")
    built_for = _MACHINES.get(number, f"machine {number}")
    return (
        ""
        if built_for == platform.machine()
        else f" (it is there, but built for {built_for}, not {platform.machine()})"
    )


def _missing_below(error: BaseException) -> BaseException | None:
    """Returns the exception that `error` was raised for, if that is what the machine lacks."""
    seen: set[int] = set()
    below: BaseException | None = error
    while below is not None and id(below) not in seen:  # code that sets causes itself can make a cycle
        seen.add(id(below))
        below = below.__cause__ or (None if below.__suppress_context__ else below.__context__)
        if isinstance(below, ImportError | OSError | MemoryError):
            return below
    return None


def _remove_framework(explained: traceback.TracebackException) -> None:
    frames = [frame for frame in explained.stack if not _is_framework(frame.filename)]
    explained.stack = traceback.StackSummary.from_list(frames)
    for other in (explained.__cause__, explained.__context__):
        if other is not None:
            _remove_framework(other)


def _is_framework(filename: str) -> bool:
    path = Path(filename)
    return filename.startswith("<frozen ") or path.parent == _SOURCE or not _FRAMEWORK.isdisjoint(path.parts)
