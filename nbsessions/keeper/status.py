"""What the keeper tells about itself and about what it keeps.

Commands read it where ZMQ is not installed.
"""

from __future__ import annotations

import msgspec


class KernelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of one kernel.

    A keeper of an earlier release may lack some of it. That is why all fields have defaults.
    """

    bytes: int = 0
    """The size of the files."""
    position: int = 0
    """How many messages the kernel has sent, see ``records.Record``."""
    clients: int = 0
    away: int = 0
    """How many of the clients are not connected."""
    away_since: float | None = None
    """Since when the client is away that has been away for the longest time."""
    needed_after: int | None = None
    """The position after which messages are kept for clients that are away."""
    standing_in: int = 0
    """How many of the clients have lost their server, so that the keeper gets their replies."""


class KeeperStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What one keeper keeps."""

    pid: int
    version: int
    started: float
    """Seconds since the epoch."""
    kernels: dict[str, KernelStatus] = {}
    total_limit: int = 0
    """How many bytes the files of all kernels may have together. 0 if there is no limit."""
