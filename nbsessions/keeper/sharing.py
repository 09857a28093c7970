"""How the spools of all kernels share the room that there is for all of them."""

from __future__ import annotations

from collections.abc import Collection

LEAST = 1_000_000
"""Bytes that a spool may keep in any case."""


def fair_level(sizes: Collection[int], most: int) -> int | None:
    """Return a level. If what is above it goes, the sizes are at most ``most`` together.

    So the largest shrink first. None if nothing has to go.
    """
    rest, larger = most, len(sizes)
    for size in sorted(sizes):
        level = rest // larger
        if size > level:
            return level
        rest -= size
        larger -= 1
    return None


def shared_limit(limit: int, level: int | None) -> int:
    """Return the limit of a spool whose own limit is ``limit``, so that its files stay below the
    level. They are up to a fifth larger than the limit.
    """
    if level is None:
        return limit
    return min(limit, max(LEAST, level * 5 // 6))
