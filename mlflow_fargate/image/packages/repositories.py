"""Packages in git repositories on GitHub, which serves each commit as an archive. Pure."""

from __future__ import annotations

import re

_GIT = re.compile(
    r"(?:([\w.-]+)\s*@\s*)?git\+https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?(?:@([\w./-]+))?(?:#(.*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def with_archive(line: str) -> str:
    """Returns a requirement line with the archive of the commit that it names; other lines as they are.

    uv locks the archive's hash, and builds it like any source distribution.
    """
    found = _GIT.fullmatch(line)
    if found is None or not _COMMIT.fullmatch(found[4] or ""):
        return line
    egg, below = (re.search(rf"(?:^|&){key}=([\w./-]+)", found[5] or "") for key in ("egg", "subdirectory"))
    name = found[1] or (egg[1] if egg else found[3])
    folder = f"#subdirectory={below[1]}" if below else ""
    return f"{name} @ https://github.com/{found[2]}/{found[3]}/archive/{found[4]}.zip{folder}"


def instead_of_source(line: str) -> str:
    """Returns what to do about a package in a version control system."""
    found = _GIT.fullmatch(line)
    archive = f"https://github.com/{found[2]}/{found[3]}/archive/{found[4] or 'HEAD'}.zip" if found else ""
    build = f"; or build it here: build_sdists=true 'requirements={found[1] or found[3]} @ {archive}'" if found else ""
    return f"build a wheel and publish it to an index, or use the wheel's https:// URL{build}"
