"""The page RESULTS.md: one section per benchmark, written only by that benchmark."""

from __future__ import annotations

import contextlib
import platform
import re
from pathlib import Path

PAGE = Path(__file__).parent / "RESULTS.md"


def write_section(title: str, text: str) -> None:
    """Writes `text` below the heading `title`; the other sections stay as they are."""
    sections = read_sections() | {title: text.strip()}
    pieces = [f"# {name}\n\n{content}\n" for name, content in sections.items()]
    PAGE.write_text("\n".join(pieces), encoding="utf-8")


def read_sections() -> dict[str, str]:
    """Returns the sections by heading."""
    page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    _, *pieces = re.split(r"^# (.+)$", page, flags=re.MULTILINE)
    return {title: content.strip() for title, content in zip(pieces[::2], pieces[1::2], strict=True)}


def find_processor() -> str:
    """Returns the processor's name on Linux, elsewhere its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
