"""The keeper's main loop: listens to kernels, and serves the servers that have them."""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable

import zmq

from nbsessions.keeper.connections import Connections
from nbsessions.keeper.deaths import Deaths
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.inheritance import Inheritance
from nbsessions.keeper.kernels import KeptKernels
from nbsessions.keeper.leftovers import remove_leftovers
from nbsessions.keeper.reaping import Reaper
from nbsessions.keeper.sockets import Context
from nbsessions.keeper.writer import Writer
from nbsessions.locks import FileLock
from nbsessions.registry.adoption import is_elsewhere
from nbsessions.registry.records import NEVER, KernelRecord, KernelRecords, may_run
from nbsessions.registry.servers import Servers

_NAP = 0.1
"""Seconds that messages wait together. That costs half of what waking up for each of them does."""
_NO_NAP_ABOVE = 1_000_000
"""Bytes in one round above which there is no nap, so that they do not pile up."""
_SCAN_INTERVAL = 0.5
_BUSY_INTERVAL = 0.01
_IDLE_BEFORE_END = 3.0
_DELIVERING, _SETTLING = 1.0, 2.5
"""Seconds after a request to stop."""


class Keeper:
    """Everything that one keeper process does."""

    def __init__(
        self,
        folder: KeeperFolder,
        lock: FileLock,
        context: Context,
        inheritance: Inheritance,
        *,
        log: logging.Logger,
    ) -> None:
        """``lock`` is the lock of the folder's keeper, which this process holds."""
        self._folder = folder
        self._lock = lock
        self._log = log
        self._done: deque[Callable[[], None]] = deque()
        self._waker, self._woken = os.pipe()[::-1]
        os.set_blocking(self._woken, False)
        self._records = KernelRecords(folder.registry / "kernels", log=log)
        servers = Servers(folder.registry / "servers")
        self._writer = Writer(self._call_soon, log=log)
        self._reaper = Reaper(self._records, servers, log=log)
        self._kernels = KeptKernels(
            self._records, folder, context, self._writer, inheritance, log=log
        )
        self._connections = Connections(folder, self._kernels, self._lost, log=log)
        self._deaths = Deaths(servers, self._kernels, self._connections.is_connected)
        self._needed = time.monotonic()

    def run(self, ready: Callable[[], None]) -> None:
        """Run until there is nothing to keep, or until it is told to stop.

        ``ready`` is called once servers can connect.
        """
        self._connections.open()
        ready()
        self._remove_leftovers()
        self._log.info("Started with process id %d", os.getpid())
        self._reaper.start()
        self._scan()
        scanned = time.monotonic()
        try:
            while not self._connections.stop_requested:
                self._round()
                if time.monotonic() - scanned >= _SCAN_INTERVAL:
                    self._scan()
                    scanned = time.monotonic()
                    if scanned - self._needed > _IDLE_BEFORE_END:
                        break
                    # If somebody has removed the files, servers cannot find this keeper. They
                    # start another one.
                    if not self._lock.is_current():
                        break
        finally:
            self._close()

    def _remove_leftovers(self) -> None:
        try:
            remove_leftovers(self._folder, self._records.list_ids())
        except OSError as error:
            self._log.warning("What is left of ended kernels cannot be removed: %s", error)

    def _close(self) -> None:
        self._settle()
        self._connections.refuse()
        self._reaper.stop()
        for kernel in self._kernels:
            self._connections.hand_over(kernel.clients.values())
            kernel.close()
        self._writer.close(timeout=5.0)
        self._connections.close()
        self._log.info("Ended")

    def _settle(self) -> None:
        """Let the files tell what clients have been sent, as far as that can be found out soon."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < _SETTLING:
            kernels = list(self._kernels)
            is_late = passed > _DELIVERING
            # The next keeper goes on with what is being delivered.
            delivering = [
                kernel.end_deliveries(at_once=is_late)
                for kernel in kernels
                if not self._connections.is_followed
            ]
            if not any(delivering) and all(kernel.settling.is_over for kernel in kernels):
                return
            self._round()

    # One round

    def _round(self) -> None:
        poller = zmq.Poller()
        for descriptor in self._urgent():
            poller.register(descriptor, zmq.POLLIN)
        kernels = self._kernels.sockets()
        for each in kernels:
            poller.register(each, zmq.POLLIN)
        ready = dict(poller.poll(int(self._pause() * 1000)))
        size = 0
        for kernel in {kernels[each] for each in ready if each in kernels}:
            size += kernel.receive()
        self._attend({each for each in ready if isinstance(each, int)})
        if size and size < _NO_NAP_ABOVE and not self._connections.stop_requested:
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
        waiting = [kernel.settling for kernel in self._kernels if kernel.settling.is_waiting]
        for each in waiting:
            each.retry()
        may_die = self._deaths.look_at_suspects()
        is_busy = waiting or may_die or self._connections.stop_requested
        return _BUSY_INTERVAL if is_busy else _SCAN_INTERVAL

    def _urgent(self) -> list[int]:
        return [self._woken, *self._connections.descriptors()]

    def _call_soon(self, function: Callable[[], None]) -> None:
        self._done.append(function)
        os.write(self._waker, b"\0")

    def _attend(self, ready: set[int]) -> None:
        if self._woken in ready:
            os.read(self._woken, 65536)
            while self._done:
                self._done.popleft()()
        self._connections.attend(ready)

    def _lost(self, server_id: str, process: str) -> None:
        self._deaths.lost(server_id, process)

    # Now and then

    def _scan(self) -> None:
        """Look for new and ended kernels, and for servers that have died."""
        try:
            self._kernels.scan()
        except OSError as error:
            self._log.warning("The records cannot be listed: %s", error)
            return
        self._deaths.look_at_clients()
        self._deaths.look_at_suspects()
        self._deaths.look_at_owners()
        delivering = [kernel.end_deliveries() for kernel in self._kernels]
        if any(delivering) or any(map(self._is_needed_for, self._kernels.records)):
            self._needed = time.monotonic()

    def _is_needed_for(self, record: KernelRecord) -> bool:
        if is_elsewhere(record):
            return False
        if not self._connections.is_connected(record.server_id) and not may_run(record):
            return False  # It has ended, and the next server removes its record.
        return record.kernel_id in self._kernels or record.orphan_timeout != NEVER
