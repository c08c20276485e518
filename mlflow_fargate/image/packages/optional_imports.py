"""Whether a package can do without one of its extension modules: it imports it only where it expects that to fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_EXTENSION = re.compile(r"(\w+)\.(cpython-\d+[\w-]*|abi3)\.so")
_EXPECTED = frozenset({"ImportError", "ModuleNotFoundError", "OSError", "Exception", "BaseException"})


def is_optional(library: Path, sources: Iterable[Path]) -> bool:
    """Returns whether `library` is an extension module that the package's `sources` import under try/except only.

    False if nothing imports it by its name: something may load it in another way.
    """
    found = _EXTENSION.fullmatch(library.name)
    if found is None:
        return False
    name = found[1]
    contents = (path.read_bytes() for path in sources)
    guards = [guarded for text in contents if name.encode() in text for guarded in _imports(text, name)]
    return bool(guards) and all(guards)


def _imports(text: bytes, name: str) -> Iterator[bool]:
    """Yields, for each import of a module with that last name, whether a failure is expected."""
    try:
        waiting: list[tuple[ast.AST, bool]] = [(ast.parse(text), False)]
    except (SyntaxError, ValueError, RecursionError):  # a template, or for another Python
        return
    while waiting:
        node, guarded = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            named = {module.rpartition(".")[2], *(alias.name.rpartition(".")[2] for alias in node.names)}
            yield from [guarded] if name in named else []
        tried = node.body if isinstance(node, ast.Try) and any(map(_expects_failure, node.handlers)) else []
        waiting += [(child, guarded or child in tried) for child in ast.iter_child_nodes(node)]


def _expects_failure(handler: ast.ExceptHandler) -> bool:
    named = [node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)] if handler.type else [*_EXPECTED]
    explains_only = any(isinstance(node, ast.Raise) for statement in handler.body for node in ast.walk(statement))
    return not _EXPECTED.isdisjoint(named) and not explains_only
