"""Positions at which a listing starts, in S3's order of keys."""

from __future__ import annotations


def position_after(marker: bytes, *, prefix: bytes, delimiter: bytes) -> bytes:
    """Returns the start of a listing that skips `marker`, everything that sorts before it, and its folder."""
    if not marker:
        return b""
    cut = marker.find(delimiter, len(prefix)) if delimiter and marker.startswith(prefix) else -1
    return marker + b"\0" if cut < 0 else after_all_with(marker[: cut + len(delimiter)])


def after_all_with(prefix: bytes) -> bytes:
    """Returns the first position after keys with this prefix; raising its last byte works because it is never 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
