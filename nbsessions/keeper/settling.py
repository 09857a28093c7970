"""Finds out what clients have been sent on connections that have ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from nbsessions.keeper.clients import Client, Sent
from nbsessions.keeper.files import KernelFiles

_LATE = 1.0
"""Seconds that a message may arrive here later than at a server."""


class Settling:
    """Examines the marks of a kernel's clients, and stores what they say."""

    def __init__(
        self,
        files: KernelFiles,
        clients: Mapping[str, Client],
        receive: Callable[[], object],
        *,
        log: logging.Logger,
    ) -> None:
        """``receive`` passes on to the spool what the kernel has said."""
        self._files = files
        self._clients = clients
        self._receive = receive
        self._log = log
        self._retries: list[Callable[[], None]] = []
        self._earlier: dict[str, Sent] = {}
        """What was found out before connections have ended, by their names."""

    def look_ahead(self, client: Client) -> None:
        """Note where the newest message is that the client may get before its connection ends.

        When it is known what the client has got, the message may have left the spool.
        """
        if client.connection is None:
            return
        name = client.connection

        def noted(found: Sent | OSError | None) -> None:
            if isinstance(found, Sent) and found.position:
                self._earlier[name] = found

        self._receive()
        self._files.examine(name, None, noted, newest=False)

    def end_connection(self, client: Client) -> None:
        """Find out what the client was sent on its connection."""
        name, client.connection = client.connection, None
        delivery, client.delivery = client.delivery, None
        if name is None:
            return
        client.settling.append(name)
        accepted = delivery.accepted() if delivery else None
        if delivery is not None:
            delivery.close()
        self._settle(client, name, accepted, time.monotonic() + _LATE)

    def _settle(self, client: Client, name: str, accepted: int | None, deadline: float) -> None:
        """Find out what a client was sent.

        A message that the server has sent may have reached the server before it reaches us.
        """
        self._receive()
        newest = time.monotonic() < deadline

        def settled(found: Sent | OSError | None) -> None:
            if isinstance(found, OSError):
                self._log.warning("What client %s was sent is unknown: %s", name, found)
                found = Sent()
            if found is None:
                self._retries.append(partial(self._settle, client, name, accepted, deadline))
                return
            client.take_over(name, found)
            self._earlier.pop(name, None)
            self._files.store(self._clients.values(), settled=name)
            while client.then and not client.settling:
                client.then.pop(0)()

        earlier = self._earlier.get(name)
        self._files.examine(name, accepted, settled, newest=newest, earlier=earlier)

    def retry(self) -> None:
        """Look again for messages that have not arrived."""
        retries, self._retries = self._retries, []
        for each in retries:
            each()

    @property
    def is_waiting(self) -> bool:
        """Whether something has to be tried again soon."""
        return bool(self._retries)

    @property
    def is_over(self) -> bool:
        """Whether it is known what all clients have been sent."""
        return not any(client.settling for client in self._clients.values())
