"""Requirements files as models and services have them: joined lines, hashes, and the files that they include. Pure.

Source: https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from mlflow_fargate.errors import ImageError

# Before a requirement: it limits the version and the hashes of a package, but does not install it.
CONSTRAINT = "-c "
# The URL of a file of a model in this machine's cache of models: model:FINGERPRINT/model/PATH.
MODEL_FILES = "model:"

_INCLUDED = re.compile(r"(?:(-r|--requirement)|-c|--constraint)(?:\s+|=|(?<=^-[rc]))(\S.*)")
COMMENT = re.compile(r"(^|\s)#.*$")
_HASH = re.compile(r"\s--hash[=\s](\w+:[0-9a-fA-F]+)")
# As a URL's fragment, or an option. Files can be made that have a given MD5 or SHA-1 hash; uv ignores these.
_WEAK_HASH = re.compile(r"(?:[#&]|\s--hash[=\s])(md5|sha1)(?:[=:]|%3d)", re.IGNORECASE)
_MOST_FILES = 20

LinesOf = Callable[[str], Sequence[str] | None]


def split_lines(text: str) -> Iterator[str]:
    """Yields the lines that have content, without comments; a line that ends with a backslash is joined to the next."""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        if bare := COMMENT.sub("", line).strip():
            yield bare


def without_hashes(line: str) -> tuple[str, tuple[str, ...]]:
    """Returns the line, and the hashes ('sha256:…') that it allows; (): any."""
    return _HASH.sub("", line).strip(), tuple(found.lower() for found in _HASH.findall(line))


def included_lines(lines: Iterable[str], lines_of: LinesOf) -> Iterator[str]:
    """Yields requirements, with those of the files that `-r` names, and a `CONSTRAINT` for each line that `-c` adds.

    `lines_of` returns the lines of a file of the same model or service; None: it has no such file. Hashes become
    constraints, too. Each file is included once. Raises ImageError for other files, and for too many.
    """
    yield from _included(lines, lines_of, "", set(), is_limit=False)


def _included(
    lines: Iterable[str], lines_of: LinesOf, folder: str, seen: set[tuple[str, bool]], *, is_limit: bool
) -> Iterator[str]:
    for line in lines:
        found = None if is_constraint(line) else _INCLUDED.fullmatch(line)
        if found is None:
            if weak := _WEAK_HASH.search(line):
                raise ImageError(
                    f"Requirement {re.split('[ @#:]', line)[0][:300]!r} names a hash that can be forged: {weak[1]}.",
                    hint="name its SHA-256 hash (--hash=sha256:…, or #sha256=… in a URL), or none",
                )
            bare, hashes = without_hashes(line)
            yield from [bare, CONSTRAINT + line] if hashes and not is_constraint(line) else [line]
            continue
        path = posixpath.normpath(posixpath.join(folder, found[2]))
        below = (path, is_limit or not found[1])
        if below in seen:
            continue
        seen.add(below)
        inner = None if path.startswith(("/", "..")) or len(seen) > _MOST_FILES else lines_of(path)
        if inner is None:
            raise ImageError(
                f"Requirement {line[:300]!r} refers to another file, which is not part of the model or service.",
                hint="log the model with that file's lines, or set them with the option requirements",
            )
        found_below = _included(inner, lines_of, posixpath.dirname(path), seen, is_limit=below[1])
        yield from filter(None, map(_as_constraint, found_below)) if below[1] else found_below


def is_constraint(line: str) -> bool:
    """Returns whether a line is a `CONSTRAINT` with a version, rather than the name of a file."""
    return line.startswith(CONSTRAINT) and re.search(r"[=<>~!@]", line) is not None


def _as_constraint(line: str) -> str | None:
    """Returns the line of a constraints file; None for a package in any version, which limits nothing."""
    if line.startswith("-"):
        return line
    return constraint if is_constraint(constraint := CONSTRAINT + line) else None
