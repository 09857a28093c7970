"""Decides which owners are dead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from nbsessions.identity import has_ended
from nbsessions.models import Owner
from nbsessions.stores.base import SILENT_KEPT_FOR
from nbsessions.stores.sql.serving import Sharer

SHARING_KEPT_FOR = timedelta(minutes=5)
"""How long an owner in a shared scope may send no heartbeat before others claim its intents."""

REBOOTED_AFTER = timedelta(minutes=5)
"""How long an owner of another boot may send no heartbeat, if its host has the name of this one.

Two machines, or containers on them, may have the same name. An owner that is alive sends several
heartbeats a minute.
"""

SILENT_AFTER = timedelta(minutes=1)
"""How long ago the last heartbeat of an owner that is alive may be. There is one every 15 s."""


class OtherOwner(NamedTuple):
    """A row of another owner, with the columns of SELECT_OTHER_OWNERS."""

    owner_id: str
    provider: str
    host: str
    boot_id: str
    process: str
    shares: bool
    """Whether its sessions are in a scope that others share, so that they do not end with it."""
    stopped: bool
    silent: timedelta
    """How long ago its last heartbeat was, by the clock of the database."""

    def is_dead(self, observer: Owner) -> bool:
        """Return whether the owner is certainly dead, or was silent for too long.

        Its process can be looked for only on the same boot of the same machine.
        """
        if self.stopped:
            return True
        gone = self._has_ended(observer)
        if gone is not None:
            return gone
        rebooted = self.boot_id and observer.boot_id and self.boot_id != observer.boot_id
        if rebooted and self.host == observer.host:
            return self.silent > REBOOTED_AFTER
        return self.silent > (SHARING_KEPT_FOR if self.shares else SILENT_KEPT_FOR)

    def is_live(self, observer: Owner) -> bool:
        """Return whether the owner runs on this machine, or sent a heartbeat a moment ago."""
        if self.is_dead(observer):
            return False
        return self._has_ended(observer) is False or self.silent <= SILENT_AFTER

    @classmethod
    def sharer(cls, row: Sequence[Any], observer: Owner) -> Sharer:
        """Return what a row with the columns of SELECT_SHARERS tells."""
        *columns, serves, unseen, _ = row
        return Sharer(serves, cls(*columns).is_dead(observer), unseen)

    def _has_ended(self, observer: Owner) -> bool | None:
        """Return whether its process has ended, or None if it cannot be seen here."""
        on_this_boot = self.boot_id and self.boot_id == observer.boot_id
        return has_ended(self.process) if on_this_boot else None
