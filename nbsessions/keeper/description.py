"""Describes what is kept."""

from __future__ import annotations

from nbsessions.keeper.clients import first_needed
from nbsessions.keeper.kernel import KeptKernel
from nbsessions.keeper.status import KernelStatus


def describe(kernel: KeptKernel) -> KernelStatus:
    """Return what is kept of a kernel."""
    clients = kernel.clients.values()
    away = [each.away_since for each in clients if each.away_since is not None]
    return KernelStatus(
        bytes=kernel.spool.size(),
        position=kernel.position,
        clients=len(clients),
        away=len(away),
        away_since=min(away, default=None),
        needed_after=first_needed(clients),
        standing_in=sum(bool(each.stand_ins) for each in clients),
    )
