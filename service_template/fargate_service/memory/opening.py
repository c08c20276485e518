"""Decides how much of the task's memory requests can have, once the model is loaded and warm."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.measured import resident_bytes
from fargate_service.settings import Settings

# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")
_MIB = 1 << 20
# For the interpreter, the connections, and what the allocator cannot reuse: a share, and at least so much.
_RESERVE_SHARE, _RESERVE_BYTES = 0.1, 48 * _MIB
# Enough to keep the threads busy while others arrive slowly, and few enough to finish within the time for a request.
_LARGE_FOR_A_THREAD = 4
# A task whose model fills it still answers small requests, one at a time.
_LEAST_BYTES = 16 * _MIB


def open_budget(budget: MemoryBudget, keep_room: Callable[[int, int], int], settings: Settings) -> None:
    """Limits `budget` to what the loaded model leaves; without a known limit of the task, nothing changes.

    `keep_room` is LoadedModel's.
    """
    if settings.memory_bytes is None:
        return
    reserve = max(_RESERVE_BYTES, int(_RESERVE_SHARE * settings.memory_bytes))
    resident = resident_bytes()
    free = settings.memory_bytes - reserve - resident
    predictions = keep_room(max(free, _LEAST_BYTES), settings.cpus + 1)
    total = free - predictions
    text = "The task has %d MiB; model and server take %d, predictions %d, and %d are left for requests"
    logger.info(text, *(size // _MIB for size in (settings.memory_bytes, resident, predictions, max(0, total))))
    if total < _LEAST_BYTES:
        logger.warning("This task is too small for its model: raise the option memory, or requests may crash it")
    budget.open(max(total, _LEAST_BYTES), most_large=_LARGE_FOR_A_THREAD * (settings.cpus + 1))
