"""One kernel that the keeper listens to, and its clients."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from nbsessions.keeper.clients import Client, longest_away
from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.files import KernelFiles
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.inheritance import Inheritance
from nbsessions.keeper.messages import NotAMessage, count_lines, message_of
from nbsessions.keeper.overlap import Overlap
from nbsessions.keeper.records import Kind, Unwritten
from nbsessions.keeper.settling import Settling
from nbsessions.keeper.sharing import shared_limit
from nbsessions.keeper.sockets import Context, Socket, Subscription, received, stand_ins, subscribe
from nbsessions.keeper.spool import Spool
from nbsessions.keeper.writer import Writer
from nbsessions.registry.records import KernelRecord

_AT_ONCE = 2000
_MOST_ROUNDS = 50
"""A kernel may publish faster than its messages can be received."""
_ALL = 10**9
_MOST_LATE = 1_000_000
"""Bytes that may arrive here later than at the keeper that this one has replaced."""
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
        self.kernel_id = record.kernel_id
        self.output_limit = record.output_limit
        self.spool = Spool(folder.spools, record.kernel_id, record.output_limit)
        self.clients: dict[str, Client] = {}
        self.position = self._lines = 0
        self._context = context
        self._writer = writer
        self._log = log
        self._files = KernelFiles(self.spool, folder, writer, log=log)
        self._subscriber: Socket | None = None
        self._info: Mapping[str, Any] = {}
        self._overlap: Overlap | None = None
        self._complained = False
        self.settling = Settling(self._files, self.clients, self.receive, log=log)

    def open(self, inheritance: Inheritance) -> None:
        """Go on with the files that an earlier keeper has left. Blocks. Raises OSError."""
        known = [self.spool.open()]
        for client in self._files.read_clients():
            client.delivery = inheritance.deliveries.pop(client.connection or "", None)
            self.clients[client.session_id] = client
            known.append((client.position, client.lines))
        # What a client has not missed may not be in the spool.
        self.position, self._lines = max(known)
        subscription = inheritance.subscriptions.pop(self.kernel_id, None)
        if subscription is None:
            self._note_gap()
        else:
            self._continue(subscription)

    def _note_gap(self) -> None:
        """Note that nobody knows what the kernel has said in the meantime."""
        if self.position:
            self.position += 1
            self.spool.note_loss(NO_KEEPER)

    def _continue(self, subscription: Subscription) -> None:
        """Go on where the earlier keeper has ended, after this one has subscribed."""
        self._info, self._subscriber = subscription.connection_info, subscription.socket
        arrived = list(received(subscription.socket, _ALL))
        size = sum(len(frame) for frames in arrived for frame in frames)
        self._overlap = Overlap(self.spool.newest_keys(size + _MOST_LATE))
        following = self._overlap.following(arrived)
        if len(following) == len(arrived) and not subscription.is_effective:
            self._note_gap()
        for frames in following:
            self._keep(Kind.IOPUB, frames)

    def share(self, level: int | None) -> None:
        """Keep the files below a level, beside what is the kernel's own limit."""
        self.spool.limit = shared_limit(self.output_limit, level)
        if self.spool.is_too_large:
            self._files.shrink()

    def end_overlap(self) -> None:
        """Forget what an earlier keeper has kept, once nothing of that can arrive any more."""
        if self._overlap is not None and self._overlap.is_over:
            self._overlap = None

    # What the kernel says

    def follow(self, record: KernelRecord) -> None:
        """Listen at the kernel's present address."""
        self.output_limit = record.output_limit
        if record.connection_info != self._info:
            self._info = record.connection_info
            if self._subscriber is not None:
                self.receive_all()
                self._subscriber.close()
            self._subscriber = subscribe(self._context, self._info)
        # An earlier keeper has stood in for some clients, and no server has been back for them.
        for client in self.clients.values():
            if client.stood_in_for and not client.stand_ins:
                self._stand_in(client)

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
                if self._overlap is None or not self._overlap.has(frames):
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
            self._writer.note_loss(self.spool, TOO_LARGE)
            return size
        self._writer.append(
            self.spool,
            Unwritten(
                kind=kind,
                frames=message,
                position=self.position,
                lines=self._lines,
                client=client,
            ),
        )
        return size

    def receive_all(self) -> None:
        """Pass on all that has arrived."""
        for _ in range(_MOST_ROUNDS):
            if not self.receive():
                return

    def flush(self, then: Callable[[], None]) -> None:
        """Call ``then`` when all that has arrived is in the files."""
        self.receive_all()
        self._writer.run(lambda: None, lambda _: then())

    # The clients

    def attach(
        self,
        session_id: str,
        connection: str,
        delivery: Delivery | None,
        server_id: str,
        server_process: str,
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
            self.settling.end_connection(client)
        elif client.delivery is not None:
            client.delivery.close()
        client.connection, client.delivery = connection, delivery
        client.server_id, client.server_process = server_id, server_process
        client.away_since = None
        self._stop_standing_in(client)
        client.stood_in_for = False
        self._files.store(self.clients.values())

        def attached() -> None:
            self.flush(lambda: then(None if is_new else client))

        if not client.settling:
            attached()
        else:
            client.then.append(attached)

    def detach(self, session_id: str, connection: str) -> None:
        """Note that a client's connection has ended, while its server goes on."""
        client = self.clients.get(session_id)
        if client is not None and client.connection == connection:
            client.away_since = time.time()
            self._end_delivery(client)
            self._limit_away()

    def _end_delivery(self, client: Client) -> None:
        """Let the client get what has been accepted for it, and nothing else."""
        if client.delivery is None:
            self.settling.end_connection(client)
        else:
            client.delivery.end()
            self.settling.look_ahead(client)

    def _limit_away(self) -> None:
        for each in longest_away(self.clients.values()):
            self._stop_standing_in(each)
            self.settling.end_connection(each)
            del self.clients[each.session_id]
        self._files.store(self.clients.values())

    # Dead servers

    def server_died(self, server_id: str, *, was_owner: bool) -> None:
        """Stand in for the clients whose server no longer does.

        ``was_owner`` says whether the kernel belonged to that server, and to no other one since.
        """
        for client in self.clients.values():
            if client.server_id == server_id:
                client.server_id = None
            elif not was_owner:
                continue
            if client.server_id is None:
                self._end_delivery(client)
                self._stop_standing_in(client)
                self._stand_in(client)
                client.away_since = client.away_since or time.time()
        self._limit_away()

    def _stand_in(self, client: Client) -> None:
        client.stood_in_for = True
        try:
            client.stand_ins = stand_ins(self._context, self._info, client.session_id)
        except OSError as error:
            self._log.warning("Replies to %r cannot be received: %s", client.session_id, error)

    def _stop_standing_in(self, client: Client) -> None:
        self.receive()
        while client.stand_ins:
            client.stand_ins.popitem()[1].close()

    def end_deliveries(self, *, at_once: bool = False) -> bool:
        """End the connections whose clients have got everything. Return whether any are left.

        With ``at_once``, end the others, too. Their clients may get some of it twice.
        """
        ending = [each for each in self.clients.values() if each.away_since and each.delivery]
        for client in ending:
            if client.delivery is not None and (client.delivery.is_complete() or at_once):
                self.settling.end_connection(client)
        return any(client.delivery for client in ending)

    def close(self) -> None:
        """Stop listening. The files stay."""
        self.receive_all()
        for client in self.clients.values():
            self._stop_standing_in(client)
            if client.delivery is not None:
                client.delivery.close()
        if self._subscriber is not None:
            self._subscriber.close()

    def remove(self) -> None:
        """Stop listening, and remove the files, because the kernel has ended."""
        self.close()
        self._files.remove(self.clients.values())
