"""One kernel that the keeper listens to, and its clients."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from nbsessions.keeper import records
from nbsessions.keeper.clients import (
    Client,
    ClientFile,
    Sent,
    encode,
    examine,
    first_needed,
    longest_away,
)
from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.messages import NotAMessage, count_lines, message_of
from nbsessions.keeper.records import Kind
from nbsessions.keeper.sockets import Context, Socket, received, stand_in, subscribe
from nbsessions.keeper.spool import Spool
from nbsessions.keeper.writer import Writer
from nbsessions.registry.records import KernelRecord

_AT_ONCE = 2000
_LATE = 1.0
"""Seconds that a message may arrive here later than at a server."""
_STAND_INS = (Kind.SHELL, Kind.STDIN)
NO_KEEPER = "the process that keeps output had ended"
TOO_LARGE = "a message was too large"


class KeptKernel:
    """Writes what a kernel says to its spool, and knows what its clients have got of that."""

    def __init__(
        self,
        record: KernelRecord,
        folder: KeeperFolder,
        context: Context,
        writer: Writer,
        *,
        log: logging.Logger,
    ) -> None:
        """Go on with the spool that an earlier keeper has left. Raises OSError."""
        self.kernel_id = record.kernel_id
        self.spool = Spool(folder.spools, record.kernel_id, record.output_limit)
        self.clients: dict[str, Client] = {}
        self._folder = folder
        self._context = context
        self._writer = writer
        self._log = log
        self._stored = ClientFile(folder.clients)
        self._subscriber: Socket | None = None
        self._info: dict[str, Any] = {}
        self._complained = False
        self._retries: list[Callable[[], None]] = []
        self.position, self._lines = self.spool.open()
        if self.position:
            # Nobody knows what the kernel has said in the meantime.
            self.position += 1
            self.spool.note_loss(NO_KEEPER, messages=0)
        for client in self._stored.read(self.kernel_id):
            self.clients[client.session_id] = client
        self.spool.needed_after = first_needed(self.clients.values())

    # What the kernel says

    def follow(self, record: KernelRecord) -> None:
        """Listen at the kernel's present address."""
        if record.connection_info != self._info:
            self._info = record.connection_info
            if self._subscriber is not None:
                self.receive()
                self._subscriber.close()
            self._subscriber = subscribe(self._context, self._info)

    def sockets(self) -> list[Socket]:
        """Return the sockets that messages may arrive at."""
        found = [] if self._subscriber is None else [self._subscriber]
        for client in self.clients.values():
            found.extend(client.stand_ins.values())
        return found

    def receive(self) -> int:
        """Pass on what has arrived to the spool. Return how many bytes that is.

        That may not be all of it, so that other kernels have their turn.
        """
        size = 0
        if self._subscriber is not None:
            for frames in received(self._subscriber, _AT_ONCE):
                size += self._keep(Kind.IOPUB, frames)
        for client in self.clients.values():
            for kind, each in client.stand_ins.items():
                for frames in received(each, _AT_ONCE):
                    size += self._keep(kind, frames, client.session_id)
        return size

    def _keep(self, kind: Kind, frames: list[bytes], client: str = "") -> int:
        try:
            message = message_of(frames)
        except NotAMessage as error:
            if not self._complained:
                self._complained = True
                self._log.warning("Kernel %s sends nonsense: %s", self.kernel_id, error)
            return 0
        self.position += 1
        self._lines += count_lines(message)
        size = sum(map(len, message))
        if not self.clients:
            return size  # There is nobody to keep it for.
        if size > self.spool.limit // 2:
            self.spool.note_loss(TOO_LARGE)
            return size
        self._writer.append(
            self.spool,
            records.encode(
                kind, message, position=self.position, lines=self._lines, client=client
            ),
        )
        return size

    def flush(self, then: Callable[[], None]) -> None:
        """Call ``then`` when all that has arrived is in the files."""
        self.receive()
        self._writer.run(lambda: None, lambda _: then())

    # The clients

    def attach(
        self,
        session_id: str,
        connection: str,
        delivery: Delivery | None,
        server_id: str,
        then: Callable[[Client | None], None],
    ) -> None:
        """Note that a client is connected.

        Call ``then`` with the client when it is known what it has been sent, and all of the rest
        is in the files. Call it with None if the client is new.
        """
        client = self.clients.get(session_id)
        is_new = client is None
        if client is None:
            client = self.clients[session_id] = Client(
                session_id=session_id, position=self.position, lines=self._lines
            )
        if client.connection != connection:
            self._end_connection(client)
        elif client.delivery is not None:
            client.delivery.close()
        client.connection, client.delivery = connection, delivery
        client.server_id, client.away_since = server_id, None
        self._stop_standing_in(client)
        self._store()

        def attached() -> None:
            self.flush(lambda: then(None if is_new else client))

        if client.settling is None:
            attached()
        else:
            client.then.append(attached)

    def detach(self, session_id: str, connection: str) -> None:
        """Note that a client's connection has ended, while its server goes on."""
        client = self.clients.get(session_id)
        if client is not None and client.connection == connection:
            self._end_connection(client)
            client.away_since = time.time()
            self._limit_away()

    def _limit_away(self) -> None:
        for each in longest_away(self.clients.values()):
            self._stop_standing_in(each)
            self._end_connection(each)
            del self.clients[each.session_id]
        self._store()

    def _end_connection(self, client: Client) -> None:
        """Find out what the client was sent on its connection."""
        name, client.connection = client.connection, None
        delivery, client.delivery = client.delivery, None
        if name is None:
            return
        client.settling = name
        accepted = delivery.accepted() if delivery else None
        if delivery is not None:
            delivery.close()
        self._settle(client, name, accepted, time.monotonic() + _LATE)

    def _settle(self, client: Client, name: str, accepted: int | None, deadline: float) -> None:
        """Find out what a client was sent.

        A message that the server has sent may have reached the server before it reaches us.
        """
        self.receive()
        newest = time.monotonic() < deadline

        def settle() -> Sent | None:
            try:
                with open(self._folder.marks.open(name, os.O_RDONLY), "rb") as file:
                    return examine(file.read(), accepted, self.spool, newest=newest)
            except (OSError, ValueError) as error:
                self._log.warning("What client %s was sent is unknown: %s", name, error)
                return Sent()

        def settled(found: Sent | OSError | None) -> None:
            if isinstance(found, Sent):
                client.take_over(found)
                self._store(then=partial(self._folder.marks.remove, name))
                while client.then:
                    client.then.pop(0)()
            else:
                self._retries.append(partial(self._settle, client, name, accepted, deadline))

        self._writer.run(settle, settled)

    def retry(self) -> None:
        """Look again for messages that have not arrived."""
        retries, self._retries = self._retries, []
        for each in retries:
            each()

    @property
    def is_waiting(self) -> bool:
        """Whether something has to be tried again soon."""
        return bool(self._retries)

    def _store(self, then: Callable[[], None] = lambda: None) -> None:
        self.spool.needed_after = first_needed(self.clients.values())
        data = encode(self.clients.values())

        def write() -> None:
            self._stored.write(self.kernel_id, data)
            then()

        self._writer.run(write, self._stored_or_not)

    def _stored_or_not(self, error: OSError | None) -> None:
        if error is not None:
            self._log.warning("The clients of %s are not stored: %s", self.kernel_id, error)

    # Dead servers

    def server_died(self, server_id: str, *, was_owner: bool) -> None:
        """Stand in for the clients whose server no longer does.

        ``was_owner`` says whether the kernel belonged to that server, and to no other one since.
        """
        for client in self.clients.values():
            if client.server_id == server_id:
                client.server_id = None
                if client.delivery is not None:
                    client.delivery.end()
            elif not was_owner:
                continue
            if client.server_id is None:
                if client.delivery is None:
                    self._end_connection(client)
                self._stop_standing_in(client)
                client.stand_ins = {kind: self._stand_in(client, kind) for kind in _STAND_INS}
                client.away_since = client.away_since or time.time()
        self._limit_away()

    def _stand_in(self, client: Client, kind: Kind) -> Socket:
        return stand_in(self._context, self._info, records.CHANNELS[kind], client.session_id)

    def _stop_standing_in(self, client: Client) -> None:
        self.receive()
        while client.stand_ins:
            client.stand_ins.popitem()[1].close()

    def end_deliveries(self) -> bool:
        """End the connections whose clients have got everything. Return whether any are left."""
        for client in self.clients.values():
            if client.server_id is None and client.delivery and client.delivery.is_complete():
                self._end_connection(client)
        return any(each.delivery and each.server_id is None for each in self.clients.values())

    def close(self) -> None:
        """Stop listening. The files stay."""
        self.receive()
        for client in self.clients.values():
            self._stop_standing_in(client)
            if client.delivery is not None:
                client.delivery.close()
        if self._subscriber is not None:
            self._subscriber.close()

    def remove(self) -> None:
        """Stop listening, and remove the files, because the kernel has ended."""
        self.close()
        marks = [each.connection or each.settling for each in self.clients.values()]

        def remove() -> None:
            self.spool.remove()
            self._stored.remove(self.kernel_id)
            for name in filter(None, marks):
                self._folder.marks.remove(name)

        self._writer.run(remove, self._stored_or_not)
