"""Makes the start cheaper: what imports and loading make is there to stay, and collecting garbage only looks at it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 100_000  # between two collections; Python's default is 700 or 2,000


@contextmanager
def few_collections() -> Iterator[None]:
    """For a block that imports or loads; afterwards collections are as frequent as before."""
    usual = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
