"""A network in memory that takes one array and returns one, whichever library computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LoadedNetwork:
    """What an image classifier gets its scores from."""

    predict: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int | None, ...]  # with the batch, which is None
    why_alone: str | None  # why callers cannot share a prediction; None: they can
