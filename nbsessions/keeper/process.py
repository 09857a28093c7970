"""The keeper's main loop: listens to kernels, and serves the servers that have them."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from nbsessions.identity import has_ended
from nbsessions.keeper.addresses import can_follow
from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.description import describe
from nbsessions.keeper.folder import KeeperFolder, peer_is_us
from nbsessions.keeper.kernel import KeptKernel
from nbsessions.keeper.leftovers import remove_leftovers
from nbsessions.keeper.protocol import (
    VERSION,
    Attach,
    Channel,
    Detach,
    Flush,
    Hello,
    ProtocolError,
    Reply,
    Request,
    Status,
    Stop,
    Watch,
)
from nbsessions.keeper.reaping import Reaper
from nbsessions.keeper.sockets import Context
from nbsessions.keeper.status import KeeperStatus
from nbsessions.keeper.writer import Writer
from nbsessions.locks import FileLock
from nbsessions.registry.adoption import is_elsewhere
from nbsessions.registry.records import NEVER, KernelRecord, KernelRecords, may_run
from nbsessions.registry.servers import Servers, State

_NAP = 0.1
"""Seconds that messages wait together. That costs half of what waking up for each of them does."""
_NO_NAP_ABOVE = 1_000_000
"""Bytes in one round above which there is no nap, so that they do not pile up."""
_SCAN_INTERVAL = 0.5
_SUSPECT_INTERVAL, _SOON_DEAD = 0.01, 2.0
_MAX_SOCKETS = 8192
_IDLE_BEFORE_END = 3.0


class Keeper:
    """Everything that one keeper process does."""

    def __init__(self, folder: KeeperFolder, lock: FileLock, *, log: logging.Logger) -> None:
        """``lock`` is the lock of the folder's keeper, which this process holds."""
        self._folder = folder
        self._lock = lock
        self._log = log
        self._records = KernelRecords(folder.registry / "kernels", log=log)
        self._servers = Servers(folder.registry / "servers")
        self._context: Context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        self._done: deque[Callable[[], None]] = deque()
        self._waker, self._woken = os.pipe()[::-1]
        os.set_blocking(self._woken, False)
        self._writer = Writer(self._call_soon, log=log)
        self._reaper = Reaper(self._records, self._servers, log=log)
        self._kernels: dict[str, KeptKernel] = {}
        self._read: dict[str, tuple[object, KernelRecord]] = {}
        self._connections: dict[int, _Connection] = {}
        self._suspects: dict[str, str] = {}
        """The keys of the processes of servers that have lost their connection, by server id."""
        self._dead: set[str] = set()
        self._started = time.time()
        self._needed = self._suspected = time.monotonic()
        self._stopping = False

    def run(self, ready: Callable[[], None]) -> None:
        """Run until there is nothing to keep, or until it is told to stop.

        ``ready`` is called once servers can connect.
        """
        self._listener = self._folder.bind()
        self._listener.setblocking(False)
        ready()
        self._remove_leftovers()
        self._log.info("Started with process id %d", os.getpid())
        self._reaper.start()
        self._scan()
        scanned = time.monotonic()
        try:
            while not self._stopping:
                self._round()
                if time.monotonic() - scanned >= _SCAN_INTERVAL:
                    self._scan()
                    scanned = time.monotonic()
                    self._stopping |= scanned - self._needed > _IDLE_BEFORE_END
                    # If somebody has removed the files, servers cannot find this keeper. They
                    # start another one.
                    self._stopping |= not self._lock.is_current()
        finally:
            self._close()

    def _remove_leftovers(self) -> None:
        try:
            remove_leftovers(self._folder, self._records.list_ids())
        except OSError as error:
            self._log.warning("What is left of ended kernels cannot be removed: %s", error)

    def _close(self) -> None:
        self._folder.unbind()
        self._listener.close()
        self._reaper.stop()
        for kernel in self._kernels.values():
            kernel.close()
        self._writer.close(timeout=5.0)
        for connection in list(self._connections.values()):
            connection.channel.close()
        self._context.destroy(linger=0)
        self._log.info("Ended")

    # One round

    def _round(self) -> None:
        poller = zmq.Poller()
        for descriptor in self._urgent():
            poller.register(descriptor, zmq.POLLIN)
        kernels = {each: kernel for kernel in self._kernels.values() for each in kernel.sockets()}
        for each in kernels:
            poller.register(each, zmq.POLLIN)
        ready = dict(poller.poll(int(self._pause() * 1000)))
        size = 0
        for kernel in {kernels[each] for each in ready if each in kernels}:
            size += kernel.receive()
        self._attend({each for each in ready if isinstance(each, int)})
        if size and size < _NO_NAP_ABOVE and not self._stopping:
            self._nap()

    def _nap(self) -> None:
        """Let messages arrive for a while, unless a server wants something."""
        poll = select.poll()
        for descriptor in self._urgent():
            poll.register(descriptor, select.POLLIN)
        pause = min(_NAP, self._pause())
        self._attend({descriptor for descriptor, _ in poll.poll(pause * 1000)})

    def _pause(self) -> float:
        """Return how many seconds nothing may happen."""
        waiting = [kernel for kernel in self._kernels.values() if kernel.is_waiting]
        for kernel in waiting:
            kernel.retry()
        if waiting:
            return _SUSPECT_INTERVAL
        if not self._suspects:
            return _SCAN_INTERVAL
        # A server that is killed loses its connection a moment before it has ended.
        self._look_at_suspects()
        recently = time.monotonic() - self._suspected < _SOON_DEAD
        return _SUSPECT_INTERVAL if recently else _SCAN_INTERVAL

    def _urgent(self) -> list[int]:
        return [self._listener.fileno(), self._woken, *self._connections]

    def _call_soon(self, function: Callable[[], None]) -> None:
        self._done.append(function)
        os.write(self._waker, b"\0")

    def _attend(self, ready: set[int]) -> None:
        if self._woken in ready:
            os.read(self._woken, 65536)
            while self._done:
                self._done.popleft()()
        if self._listener.fileno() in ready:
            self._accept()
        for descriptor in ready & self._connections.keys():
            self._serve(self._connections[descriptor])

    # Connections

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
            self._suspects[connection.server_id] = connection.process
            self._suspected = time.monotonic()
            self._look_at_suspects()

    def _answer(self, connection: _Connection, request: Request) -> None:
        descriptor = connection.channel.take_descriptor()
        try:
            if isinstance(request, Attach):
                self._attach(connection, request, descriptor)
                return
        finally:
            if descriptor is not None:
                os.close(descriptor)
        kernel = self._kernels.get(getattr(request, "kernel_id", ""))
        match request:
            case Hello():
                connection.server_id = request.server_id
                connection.process = request.process
                connection.reply(Reply(version=VERSION, pid=os.getpid()))
            case Watch():
                self._watch(request.kernel_id)
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
                self._stopping = True

    def _attach(self, connection: _Connection, request: Attach, descriptor: int | None) -> None:
        kernel = self._kernels.get(request.kernel_id)
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

        server_id = connection.server_id
        kernel.attach(request.client, request.connection, delivery, server_id, reply)

    def _flush(self, connection: _Connection, kernel: KeptKernel | None) -> None:
        if kernel is None:
            connection.reply(Reply(error="the kernel is not kept"))
        else:
            kernel.flush(lambda: connection.reply(Reply()))

    # Kernels and servers

    def _scan(self) -> None:
        """Look for new and ended kernels, and for servers that have died."""
        try:
            found = self._records.list_ids()
        except OSError as error:
            self._log.warning("The records cannot be listed: %s", error)
            return
        for kernel_id in self._read.keys() - set(found):
            self._forget_if_removed(kernel_id)
        self._dead &= {record.server_id for _, record in self._read.values()}
        for kernel_id in found:
            self._watch(kernel_id)
        self._look_at_suspects()
        for server_id in {record.server_id for _, record in self._read.values()}:
            self._look_at_owner(server_id)
        delivering = [kernel.end_deliveries() for kernel in self._kernels.values()]
        records = [record for _, record in self._read.values()]
        if any(delivering) or any(map(self._is_needed_for, records)):
            self._needed = time.monotonic()

    def _forget_if_removed(self, kernel_id: str) -> None:
        # A list may lack a record that was replaced just then. Only its own name tells.
        with contextlib.suppress(OSError):
            if self._records.exists(kernel_id):
                return
            del self._read[kernel_id]
            kernel = self._kernels.pop(kernel_id, None)
            if kernel is not None:
                kernel.remove()

    def _is_needed_for(self, record: KernelRecord) -> bool:
        if is_elsewhere(record):
            return False
        if not self._is_connected(record.server_id) and not may_run(record):
            return False  # It has ended, and the next server removes its record.
        return record.kernel_id in self._kernels or record.orphan_timeout != NEVER

    def _watch(self, kernel_id: str) -> None:
        """Follow the kernel if its record says so. Read the record only if it has changed."""
        try:
            changed = self._records.version(kernel_id)
        except OSError:
            return
        known = self._read.get(kernel_id)
        if known is not None and known[0] == changed:
            return
        record = self._records.read(kernel_id)
        if record is None:
            return
        self._read[kernel_id] = (changed, record)
        if record.output_limit and can_follow(record.connection_info):
            self._follow(record)

    def _follow(self, record: KernelRecord) -> None:
        kernel = self._kernels.get(record.kernel_id)
        try:
            if kernel is None:
                kernel = KeptKernel(
                    record, self._folder, self._context, self._writer, log=self._log
                )
                self._kernels[record.kernel_id] = kernel
            kernel.follow(record)
        except (OSError, zmq.ZMQError) as error:
            self._log.warning("Kernel %s cannot be followed: %s", record.kernel_id, error)

    def _is_connected(self, server_id: str) -> bool:
        return any(each.server_id == server_id for each in self._connections.values())

    def _look_at_suspects(self) -> None:
        """Find out whether the servers have died that have lost their connection."""
        for server_id, process in list(self._suspects.items()):
            if self._is_connected(server_id):
                del self._suspects[server_id]
            elif has_ended(process):
                del self._suspects[server_id]
                self._died(server_id)

    def _look_at_owner(self, server_id: str) -> None:
        """Find out whether a server has died that is not connected."""
        if server_id in self._dead or server_id in self._suspects:
            return
        if self._is_connected(server_id):
            return
        if self._servers.state(server_id) is State.DEAD:
            self._died(server_id)

    def _died(self, server_id: str) -> None:
        """Stand in for the clients of a server that has died."""
        self._dead.add(server_id)
        for kernel_id, kernel in self._kernels.items():
            _, record = self._read[kernel_id]
            kernel.server_died(server_id, was_owner=record.server_id == server_id)

    def _status(self) -> KeeperStatus:
        return KeeperStatus(
            pid=os.getpid(),
            version=VERSION,
            started=self._started,
            kernels={kernel_id: describe(kernel) for kernel_id, kernel in self._kernels.items()},
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

    def reply(self, reply: Reply) -> None:
        """Send a reply, unless the other side has gone."""
        if not self.closed:
            try:
                self.channel.send(reply)
            except OSError:
                self.closed = True
