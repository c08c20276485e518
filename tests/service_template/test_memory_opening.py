"""How much of the task's memory requests get, and how that is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.measured import resident_bytes
from fargate_service.memory.opening import open_budget
from fargate_service.settings import Settings, available_memory, read_settings

MIB = 1 << 20


def keep_room(available_bytes: int, threads: int) -> int:
    """Keeps a fixed number of bytes for predictions."""
    assert threads == 2
    return min(available_bytes // 2, 100 * MIB)


def test_requests_get_what_model_predictions_and_reserve_leave() -> None:
    budget = MemoryBudget()
    limit = resident_bytes() + 1000 * MIB

    open_budget(budget, keep_room, Settings(Path("model"), memory_bytes=limit))

    reserve = max(48 * MIB, limit // 10)
    assert budget.total == pytest.approx(900 * MIB - reserve, abs=20 * MIB)


def test_a_task_full_of_its_model_still_answers_small_requests(caplog: pytest.LogCaptureFixture) -> None:
    budget = MemoryBudget()

    open_budget(budget, keep_room, Settings(Path("model"), memory_bytes=64 * MIB))

    assert budget.total == 16 * MIB
    assert "raise the option memory" in caplog.text


def test_without_a_known_limit_there_is_no_budget() -> None:
    budget = MemoryBudget()

    open_budget(budget, keep_room, Settings(Path("model")))

    assert budget.total == float("inf")


def test_the_peak_of_a_block_of_work_is_measured() -> None:
    """In a process of its own: garbage of other tests that is freed meanwhile would hide it."""
    code = (
        "from fargate_service.memory.measured import peak_bytes; import numpy\n"
        "print(peak_bytes(lambda: numpy.ones(50 << 20, dtype='uint8').sum()))"
    )
    path = os.pathsep.join(sys.path)
    risen = int(subprocess.check_output([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}))

    assert 45 * MIB < risen < 100 * MIB


@pytest.mark.parametrize(
    ("text", "limit"), [("1073741824\n", 1 << 30), ("max\n", None), (f"{(1 << 63) - 4096}\n", None)]
)
def test_the_containers_limit_is_read(tmp_path: Path, text: str, limit: int | None) -> None:
    (tmp_path / "memory.max").write_text(text)

    assert available_memory([tmp_path / "missing", tmp_path / "memory.max"]) == limit


def test_the_tasks_memory_counts_if_it_is_the_lower_limit() -> None:
    assert read_settings({"TASK_MEMORY_MIB": "64"}).memory_bytes == 64 * MIB
