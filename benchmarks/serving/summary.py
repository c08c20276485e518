"""The tables of the results: each case by itself, and how far the service is ahead of, or behind, its peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.serving.cases import Case
from benchmarks.serving.peers import OURS
from benchmarks.serving.wrk import Sample

_HEAD = (
    "| server | 1 client: /s | p50 ms | p99 ms | CPU ms | 32 clients: /s | p50 ms | p99 ms | CPU ms | PSS MB "
    "| start s | start CPU s |\n|---|" + "---:|" * 11
)


@dataclass(frozen=True)
class Line:
    """One server: with one client, with 32, memory and start; or a floor (rate, p50) by one and by 32 at a time."""

    name: str
    single: Sample | None = None
    many: Sample | None = None
    memory_mb: float = 0
    start: tuple[float, float] = (0, 0)
    failure: str = ""
    floor: tuple[tuple[float, float], tuple[float, float]] | None = None


def table_of(lines: Sequence[Line]) -> str:
    return "\n".join([_HEAD, *map(_row, lines)])


def _row(line: Line) -> str:
    if line.floor:
        (rate, p50), (together, p50_together) = line.floor
        return f"| {line.name} | {rate:.0f} | {p50:.2f} | | | {together:.0f} | {p50_together:.2f} | | | | | |"
    if line.single is None or line.many is None:
        return f"| {line.name} | fails: {' '.join(line.failure.split())} |" + " |" * 10
    cells = [f"{one.rate:.0f} | {one.p50:.2f} | {one.p99:.1f} | {one.cpu:.2f}" for one in (line.single, line.many)]
    return (
        f"| {line.name} | {cells[0]} | {cells[1]} | {line.memory_mb:.0f} | {line.start[0]:.1f} | {line.start[1]:.1f} |"
    )


def summarize(lines: Mapping[Case, Sequence[Line]]) -> str:
    """Returns, for each case, the service's rate against the best peer's, and its p50 against the fastest one's."""
    rows = [
        "| case | requests/s of 32 clients / best peer's | p50 of 1 client / best peer's "
        "| / FastAPI's with a DataFrame | / floor's | requests/s of 32 / floor's |\n|---|---|---|---:|---:|---:|"
    ]
    for case, found in lines.items():
        # Without those that have finished no request in a burst.
        answering = [line for line in found if line.single and line.many and line.single.p50 and line.many.rate]
        ours = next((line for line in answering if line.name == OURS), None)
        peers = [line for line in answering if not line.name.startswith(OURS)]
        if ours is None or ours.single is None or ours.many is None or not peers:
            continue
        most = max(peers, key=lambda line: line.many.rate if line.many else 0)
        fastest = min(peers, key=lambda line: line.single.p50 if line.single else 0)
        assert most.many and fastest.single
        frames = [line.single.p50 for line in peers if line.name == "FastAPI, DataFrame" and line.single]
        frame = f"{ours.single.p50 / frames[0]:.2f}" if frames else ""
        floor = next((line.floor for line in found if line.floor), None)
        floors = f"{ours.single.p50 / floor[0][1]:.2f} | {ours.many.rate / floor[1][0]:.2f}" if floor else " | "
        rows.append(
            f"| {case.title} | {ours.many.rate / most.many.rate:.2f} ({most.name}) "
            f"| {ours.single.p50 / fastest.single.p50:.2f} ({fastest.name}) | {frame} | {floors} |"
        )
    return "\n".join(rows)
