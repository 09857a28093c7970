"""A server's connection to the keeper."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from msgspec import Struct

from nbsessions.identity import process_key
from nbsessions.keeper.asking import OtherVersion, Refused, exchange
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.marks import Mark
from nbsessions.keeper.protocol import (
    VERSION,
    Attach,
    Channel,
    Detach,
    Flush,
    Hello,
    Reply,
    Request,
    Watch,
)
from nbsessions.keeper.starting import KeeperFailed, start_keeper

T = TypeVar("T")

_TIMEOUT = 5.0
_CHECK_INTERVAL = 1.0
_ATTEMPTS = 3
_LONGEST_PAUSE = 60.0
"""Seconds between attempts to start a keeper that cannot be started."""


class Attached(Struct, frozen=True, kw_only=True):
    """A client's connection that the keeper knows of."""

    mark: Mark
    known: Reply | None
    """What the client has been sent before. None if the client is new."""


class _Client(Struct, kw_only=True):
    request: Attach
    descriptor: int | None
    mark: Mark | None = None

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class KeeperLink:
    """Tells the keeper of this server's kernels and clients, in a thread of its own.

    It starts a keeper when the first kernel is to be watched, and another one if that dies. All
    methods return at once. Each future fails with OSError if no keeper can be reached.
    """

    def __init__(self, folder: KeeperFolder, server_id: str, *, log: logging.Logger) -> None:
        self.folder = folder
        self._server_id = server_id
        self._log = log
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._channel: Channel | None = None
        self._kernels: set[str] = set()
        self._clients: dict[str, _Client] = {}
        """By the names of their connections."""
        self._problem: str | None = None
        self._failures = 0
        self._not_before = 0.0

    # Requests

    def watch(self, kernel_id: str) -> None:
        """Let the keeper listen to a kernel whose record has been written."""

        def watch() -> None:
            self._kernels.add(kernel_id)
            self._ask(Watch(kernel_id=kernel_id))

        self._submit(watch)

    def forget(self, kernel_id: str) -> None:
        """Stop to care for a kernel that has ended. The keeper notices that by itself."""
        self._submit(lambda: self._kernels.discard(kernel_id))

    def attach(
        self, kernel_id: str, client: str, descriptor: int | None, base: int | None
    ) -> tuple[str, Future[Attached]]:
        """Tell the keeper that a client is connected.

        ``descriptor`` is a duplicate of the client's TCP socket, which this object closes. Return
        the name of the connection for ``detach``, and what the client has been sent before.
        """
        name = str(uuid.uuid4())
        request = Attach(kernel_id=kernel_id, client=client, connection=name, base=base)
        attaching = _Client(request=request, descriptor=descriptor)
        self._clients[name] = attaching
        return name, self._submit(lambda: self._attach(attaching))

    def _attach(self, client: _Client) -> Attached:
        name = client.request.connection
        if client.mark is None:
            client.mark = Mark(self.folder.marks, name)
        reply = self._ask(client.request, client.descriptor)
        return Attached(mark=client.mark, known=None if reply.position is None else reply)

    def detach(self, name: str) -> None:
        """Tell the keeper that a connection has ended."""
        client = self._clients.pop(name, None)
        if client is None:
            return
        request = client.request

        def detach() -> None:
            # Not earlier, because the thread may be sending the descriptor.
            client.close()
            if client.mark is not None:
                client.mark.close()
            self._ask(Detach(kernel_id=request.kernel_id, client=request.client, connection=name))

        self._submit(detach)

    def flush(self, kernel_id: str) -> Future[None]:
        """Have the files contain what the kernel has said so far."""

        def flush() -> None:
            self._ask(Flush(kernel_id=kernel_id))

        return self._submit(flush)

    def close(self) -> None:
        """Do what is queued, and end the connection. Idempotent."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(2 * _TIMEOUT)
            self._thread = None
        # The keeper follows the connections of these clients until this process has ended. If it
        # was told of them again, without their sockets, it would lose track of what they are sent.
        while self._clients:
            self._clients.popitem()[1].close()

    # In the thread

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:
                    future.set_exception(error)

        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="nbsessions-keeper", daemon=True
            )
            self._thread.start()
        return future

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_CHECK_INTERVAL)
            except queue.Empty:
                self._check()
                continue
            if job is None:
                break
            job()
        self._disconnect()

    def _check(self) -> None:
        """Connect again if the keeper has died."""
        if self._channel is not None and _has_ended(self._channel):
            self._disconnect()
        if self._channel is None and self._kernels:
            with contextlib.suppress(OSError):
                self._connected()

    def _ask(self, request: Request, descriptor: int | None = None) -> Reply:
        """Return the keeper's reply. Raises OSError."""
        for attempt in range(_ATTEMPTS):
            channel = self._connected()
            try:
                return exchange(channel, request, descriptor)
            except Refused:
                raise
            except OSError:
                self._disconnect()
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _connected(self) -> Channel:
        if self._channel is None:
            if time.monotonic() < self._not_before:
                raise KeeperFailed(self._problem)
            try:
                self._channel = self._connect()
                self._introduce(self._channel)
            except OSError as error:
                self._failed(error)
                raise
            self._problem, self._failures = None, 0
        return self._channel

    def _failed(self, error: OSError) -> None:
        self._disconnect()
        self._warn(error)
        # The first failure may be due to a keeper that is just ending.
        pause = 2**self._failures if self._failures else 0
        self._not_before = time.monotonic() + min(pause, _LONGEST_PAUSE)
        self._failures += 1

    def _connect(self) -> Channel:
        """Return a connection to a keeper of our version or a later one. Raises OSError."""
        self.folder.make()
        try:
            channel = Channel(self.folder.connect(_TIMEOUT))
        except OSError:
            return self._started()
        try:
            return self._greeted(channel)
        except OtherVersion:
            return self._started()

    def _started(self) -> Channel:
        start_keeper(self.folder.registry)
        return self._greeted(Channel(self.folder.connect(_TIMEOUT)))

    def _greeted(self, channel: Channel) -> Channel:
        hello = Hello(version=VERSION, server_id=self._server_id, process=process_key(os.getpid()))
        try:
            greeting = exchange(channel, hello)
            if (greeting.version or 0) < VERSION:
                raise OtherVersion(greeting.version, greeting.pid)
        except OSError:
            channel.close()
            raise
        return channel

    def _introduce(self, channel: Channel) -> None:
        for kernel_id in self._kernels:
            exchange(channel, Watch(kernel_id=kernel_id))
        for client in list(self._clients.values()):
            if client.mark is not None:
                with contextlib.suppress(Refused):
                    exchange(channel, client.request, client.descriptor)

    def _disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _warn(self, error: Exception) -> None:
        if self._problem != str(error):
            self._problem = str(error)
            self._log.warning(
                "What kernels say while no server is there will be lost, because there is no "
                "process that keeps it: %s",
                error,
            )


def _has_ended(channel: Channel) -> bool:
    """Return whether there is anything to read, although nothing was asked."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(0))
