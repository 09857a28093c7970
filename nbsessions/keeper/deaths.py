"""Notices when servers have died."""

from __future__ import annotations

import time
from collections.abc import Callable

from nbsessions.identity import has_ended
from nbsessions.keeper.kernels import KeptKernels
from nbsessions.registry.servers import Servers, State

_SOON_DEAD = 2.0


class Deaths:
    """Tells the kernels of the deaths of the servers that they or their clients had."""

    def __init__(
        self, servers: Servers, kernels: KeptKernels, is_connected: Callable[[str], bool]
    ) -> None:
        """``is_connected`` tells whether a server has a connection to the keeper."""
        self._servers = servers
        self._kernels = kernels
        self._is_connected = is_connected
        self._suspects: dict[str, str] = {}
        """The keys of the processes of servers that have lost their connection, by server id."""
        self._suspected = time.monotonic()
        self._dead: set[str] = set()

    def lost(self, server_id: str, process: str) -> None:
        """Note that a server has lost its connection. ``process`` is the key of its process."""
        self._suspects[server_id] = process
        self._suspected = time.monotonic()
        self.look_at_suspects()

    def look_at_suspects(self) -> bool:
        """Find out whether the servers have died that have lost their connection.

        Return whether one of them may be about to. A server that is killed loses its connection
        a moment before it has ended.
        """
        for server_id, process in list(self._suspects.items()):
            if self._is_connected(server_id):
                del self._suspects[server_id]
            elif has_ended(process):
                del self._suspects[server_id]
                self._died(server_id)
        return bool(self._suspects) and time.monotonic() - self._suspected < _SOON_DEAD

    def look_at_clients(self) -> None:
        """Suspect the servers of clients that an earlier keeper knew, and that are not connected.

        Such a server may have died before it found this keeper, and its kernels may belong to
        another one since.
        """
        for kernel in self._kernels:
            for client in kernel.clients.values():
                server_id, process = client.server_id, client.server_process
                if server_id is not None and process and not self._is_connected(server_id):
                    self._suspects.setdefault(server_id, process)

    def look_at_owners(self) -> None:
        """Find out whether the owners of kernels have died that are not connected."""
        owners = {record.server_id for record in self._kernels.records}
        self._dead &= owners
        for server_id in owners - self._dead - self._suspects.keys():
            if self._is_connected(server_id):
                continue
            if self._servers.state(server_id) is State.DEAD:
                self._died(server_id)

    def _died(self, server_id: str) -> None:
        self._dead.add(server_id)
        self._kernels.server_died(server_id)
