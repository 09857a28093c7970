"""The connections of servers and commands to the keeper, and the answers to their requests."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from nbsessions.keeper.clients import Client
from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.description import describe
from nbsessions.keeper.folder import KeeperFolder, peer_is_us
from nbsessions.keeper.kernel import KeptKernel
from nbsessions.keeper.kernels import KeptKernels
from nbsessions.keeper.protocol import (
    VERSION,
    Attach,
    Channel,
    Detach,
    Flush,
    Handed,
    Hello,
    ProtocolError,
    Reply,
    Request,
    Status,
    Stop,
    Watch,
)
from nbsessions.keeper.status import KeeperStatus


class Connections:
    """Accepts connections, and answers requests."""

    def __init__(
        self,
        folder: KeeperFolder,
        kernels: KeptKernels,
        lost: Callable[[str, str], None],
        *,
        log: logging.Logger,
    ) -> None:
        """``lost`` is called with the id of a server whose connection has ended, and with the
        key of its process.
        """
        self._folder = folder
        self._kernels = kernels
        self._lost_server = lost
        self._log = log
        self._started = time.time()
        self._connections: dict[int, _Connection] = {}
        self._following: _Connection | None = None
        """That of the keeper that follows this one."""
        self.stop_requested = False

    def open(self) -> None:
        """Let others connect. Raises OSError."""
        self._listener = self._folder.bind()
        self._listener.setblocking(False)

    def refuse(self) -> None:
        """Let nobody connect any more."""
        self._folder.unbind()
        self._listener.close()

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            connection.channel.close()

    def descriptors(self) -> list[int]:
        """Return what to poll."""
        return [self._listener.fileno(), *self._connections]

    def attend(self, ready: set[int]) -> None:
        """Accept a connection, and answer requests, where one of the descriptors is ready."""
        if self._listener.fileno() in ready:
            self._accept()
        for descriptor in ready & self._connections.keys():
            self._serve(self._connections[descriptor])

    def is_connected(self, server_id: str) -> bool:
        """Return whether a server has a connection."""
        return any(each.server_id == server_id for each in self._connections.values())

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if not peer_is_us(connection):
            self._log.warning("A process of another user was refused")
            connection.close()
            return
        connection.settimeout(1.0)
        self._connections[connection.fileno()] = _Connection(Channel(connection))

    def _serve(self, connection: _Connection) -> None:
        channel = connection.channel
        try:
            alive = channel.receive()
            while (request := channel.next_request()) is not None:
                self._answer(connection, request)
        except (OSError, ProtocolError) as error:
            self._log.warning("A connection is closed: %s", error)
            alive = False
        if not alive:
            self._lost(connection)

    def _lost(self, connection: _Connection) -> None:
        if self._connections.pop(connection.channel.fileno(), None) is None:
            return
        connection.channel.close()
        connection.closed = True
        if connection.server_id is not None:
            self._lost_server(connection.server_id, connection.process)

    def _answer(self, connection: _Connection, request: Request) -> None:
        descriptor = connection.channel.take_descriptor()
        try:
            if isinstance(request, Attach):
                self._attach(connection, request, descriptor)
                return
        finally:
            if descriptor is not None:
                os.close(descriptor)
        kernel = self._kernels.find(getattr(request, "kernel_id", ""))
        match request:
            case Hello():
                connection.server_id = request.server_id
                connection.process = request.process
                connection.reply(Reply(version=VERSION, pid=os.getpid()))
            case Watch():
                self._kernels.watch(request.kernel_id)
                connection.reply(Reply())
            case Detach():
                if kernel is not None:
                    kernel.detach(request.client, request.connection)
                connection.reply(Reply())
            case Flush():
                self._flush(connection, kernel)
            case Status():
                connection.reply(Reply(status=msgspec.to_builtins(self._status())))
            case Stop():
                self.stop_requested = True
                if request.hand_over:
                    self._following = connection

    def _attach(self, connection: _Connection, request: Attach, descriptor: int | None) -> None:
        kernel = self._kernels.find(request.kernel_id)
        if kernel is None or connection.server_id is None:
            connection.reply(Reply(error="the kernel is not kept"))
            return
        delivery = None
        if descriptor is not None and request.base is not None:
            delivery = Delivery(_duplicate(descriptor), request.base)

        def reply(client: Any) -> None:
            if client is None:
                connection.reply(Reply())
            else:
                connection.reply(
                    Reply(position=client.position, lines=client.lines, answered=client.answered)
                )

        kernel.attach(
            request.client,
            request.connection,
            delivery,
            connection.server_id,
            connection.process,
            reply,
        )

    def _flush(self, connection: _Connection, kernel: KeptKernel | None) -> None:
        if kernel is None:
            connection.reply(Reply(error="the kernel is not kept"))
        else:
            kernel.flush(lambda: connection.reply(Reply()))

    @property
    def is_followed(self) -> bool:
        """Whether another keeper waits for this one to end."""
        return self._following is not None

    def hand_over(self, clients: Iterable[Client]) -> None:
        """Pass the connections of clients on to the keeper that follows, if there is one."""
        if self._following is None:
            return
        for client in clients:
            name, delivery = client.connection, client.delivery
            if name is not None and delivery is not None:
                handed = Handed(connection=name, base=delivery.base, ended=delivery.ended)
                self._following.reply(Reply(handed=handed), delivery.fileno())

    def _status(self) -> KeeperStatus:
        return KeeperStatus(
            pid=os.getpid(),
            version=VERSION,
            started=self._started,
            kernels={kernel.kernel_id: describe(kernel) for kernel in self._kernels},
            total_limit=self._kernels.total_limit,
        )


def _duplicate(descriptor: int) -> socket.socket:
    duplicate = os.dup(descriptor)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


class _Connection:
    """A connection of a server, or of a command."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.server_id: str | None = None
        self.process = ""
        self.closed = False

    def reply(self, reply: Reply, descriptor: int | None = None) -> None:
        """Send a reply, unless the other side has gone."""
        if not self.closed:
            try:
                self.channel.send(reply, descriptor)
            except OSError:
                self.closed = True
