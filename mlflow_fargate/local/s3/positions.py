"""Positions in a listing: where one begins, in the order in which S3 sorts keys."""

from __future__ import annotations


def position_after(marker: bytes, *, prefix: bytes, delimiter: bytes) -> bytes:
    """Where a listing begins that must leave out `marker`, what sorts before it, and the folder it lies in."""
    if not marker:
        return b""
    cut = marker.find(delimiter, len(prefix)) if delimiter and marker.startswith(prefix) else -1
    return marker + b"\0" if cut < 0 else after_all_with(marker[: cut + len(delimiter)])


def after_all_with(prefix: bytes) -> bytes:
    """The first position behind every key with this prefix; UTF-8 has no byte 0xFF, so the last one can be raised."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
