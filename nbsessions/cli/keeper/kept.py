"""What is kept of each kernel, for people and for programs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from nbsessions.cli.keeper.state import KeeperState
from nbsessions.cli.output import format_duration, format_size, plain
from nbsessions.cli.overview import Overview
from nbsessions.keeper.status import KernelStatus


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is kept of one kernel."""

    kernel_id: str
    paths: Sequence[str]
    """Those of its sessions, as far as they are known."""
    status: KernelStatus
    waiting: int
    """The bytes that are kept for clients that are away."""

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return self.status.clients - self.status.away

    @property
    def away_seconds(self) -> float | None:
        """For how long the client is away that has been away for the longest time."""
        since = self.status.away_since
        return None if since is None else max(0.0, time.time() - since)

    def to_json(self) -> Mapping[str, Any]:
        """Return what ``keeper --json`` prints. Its keys are a public interface."""
        away = self.away_seconds
        return {
            "kernel_id": self.kernel_id,
            "paths": list(self.paths),
            "kept_bytes": self.status.bytes,
            "connected": self.connected,
            "away": self.status.away,
            "away_seconds": None if away is None else round(away, 3),
            "waiting_bytes": self.waiting,
            "keeps_replies": self.status.standing_in > 0,
        }


def list_kept(state: KeeperState, overview: Overview) -> Iterator[Kept]:
    """Yield what is kept of each kernel."""
    for kernel_id, status in state.kernels.items():
        sessions = overview.sharing(kernel_id)
        yield Kept(
            kernel_id=kernel_id,
            paths=[each.path for each in sessions if each.path is not None],
            status=status,
            waiting=state.waiting(kernel_id),
        )


def kept_table(kernels: Sequence[Kept]) -> Table:
    """Return the table that ``keeper`` prints."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("kernel")
    table.add_column("path")
    for column in ("kept", "connected", "away", "away for", "waiting"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("replies")
    for each in kernels:
        table.add_row(
            plain(each.kernel_id[:8]),
            plain(", ".join(each.paths)),
            format_size(each.status.bytes),
            str(each.connected),
            str(each.status.away),
            format_duration(each.away_seconds),
            format_size(each.waiting) if each.status.away else "",
            "kept" if each.status.standing_in else "",
        )
    return table
