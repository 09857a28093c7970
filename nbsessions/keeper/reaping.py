"""Ends the kernels that no server has taken over in time, even if no server ever starts again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from nbsessions.registry.adoption import Adoption
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.records import KernelRecord, KernelRecords
from nbsessions.registry.servers import Servers, State

_INTERVAL = 0.5
_DEFAULT_TIMEOUT = 24 * 3600.0
"""For the kernels of earlier releases, whose records do not have it."""


class Reaper:
    """Looks for kernels to end, in a thread of its own. They are those that adoption would end."""

    def __init__(self, records: KernelRecords, servers: Servers, *, log: logging.Logger) -> None:
        self._records = records
        self._servers = servers
        self._log = log
        self._silence = Silence(servers)
        self._adoption = Adoption(
            records,
            servers,
            KernelEnder(records),
            root_dir=None,
            orphan_timeout=_DEFAULT_TIMEOUT,
            silent_for=self._silence.of,
            log=log,
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking. Kernels whose end has begun are left to the next keeper or server."""
        self._stopped.set()
        self._thread.join(2 * _INTERVAL)

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            try:
                self.look()
            except OSError as error:
                self._log.warning("Kernels without a server cannot be looked for: %s", error)

    def look(self) -> None:
        """End what has to be ended now. Raises OSError."""
        dead = self._silence.find_dead()
        # Reading the records takes longer than all the rest, and most of the time, no server is
        # dead.
        for server_id, records in _by_server(self._records.read_all() if dead else ()).items():
            # The lock is taken only if something has to be ended. A server that starts in the
            # meantime could not adopt the other kernels.
            if server_id in dead and any(map(self._adoption.is_overdue, records)):
                self._adoption.take_over(server_id, _adopt_none)


class Silence:
    """For how long servers have been dead, on a clock that stops while the machine is asleep."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._last: dict[str, float] = {}
        """When each server was last alive, as far as is known."""

    def find_dead(self) -> set[str]:
        """Return the servers that are dead. Raises OSError."""
        server_ids = set(self._servers.list_ids())
        now = time.monotonic()
        dead = {each for each in server_ids if self._servers.state(each) is State.DEAD}
        self._last = {each: when for each, when in self._last.items() if each in server_ids}
        self._last.update(dict.fromkeys(server_ids - dead, now))
        return dead

    def of(self, server_id: str) -> float:
        """Return the seconds since the server was last known to be alive."""
        now = time.monotonic()
        # What was before the first look is known by the clock of the files only.
        last = self._last.setdefault(server_id, now - self._servers.silent_for(server_id))
        return now - last


def _by_server(records: Iterable[KernelRecord]) -> dict[str, list[KernelRecord]]:
    found: dict[str, list[KernelRecord]] = {}
    for record in records:
        found.setdefault(record.server_id, []).append(record)
    return found


def _adopt_none(record: KernelRecord) -> None:
    raise AssertionError("the keeper adopts no kernels")
