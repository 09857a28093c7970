"""Takes the place of a keeper of an earlier release, without a loss.

The new keeper first subscribes to the kernels. When they have noticed it, the earlier keeper is
told to end, and writes what it has. What this one has received as well is dropped, and the rest
follows in the files. See ``Overlap``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket

import zmq

from nbsessions.keeper.addresses import can_follow
from nbsessions.keeper.asking import exchange
from nbsessions.keeper.delivery import Delivery
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.inheritance import Inheritance
from nbsessions.keeper.protocol import VERSION, Channel, Handed, Hello, Stop
from nbsessions.keeper.sockets import Context, Subscription, wait_until_effective
from nbsessions.locks import FileLock
from nbsessions.registry.records import KernelRecords

_TIMEOUT = 5.0
_HANDSHAKES = 1.0
"""Seconds for which kernels that do not answer are waited for."""


class Replacement:
    """Replaces the keeper of a folder, if it is of an earlier version. All methods block."""

    def __init__(self, folder: KeeperFolder, context: Context, *, log: logging.Logger) -> None:
        self.inheritance = Inheritance()
        self._folder = folder
        self._context = context
        self._log = log
        self._records = KernelRecords(folder.registry / "kernels", log=log)
        self._lock: FileLock | None = None

    def is_needed(self) -> bool:
        """Return whether the keeper has to be replaced. Then tell it to end.

        It has ended when its lock is free. Raises OSError if nobody can be reached, or if the
        keeper does not end soon.
        """
        if self._lock is None:
            # Two keepers must not take over half of it each.
            self._lock = FileLock(self._folder.path / "replacing", folder=self._folder.folder)
        if not self._lock.acquire(timeout=_TIMEOUT):
            raise TimeoutError("another process replaces the keeper, and does not get on")
        channel = Channel(self._folder.connect(_TIMEOUT))
        try:
            greeting = exchange(channel, Hello(version=VERSION))
            if (greeting.version or 0) >= VERSION:
                return False
            self._log.info(
                "Process %d replaces the keeper of an earlier release, process %s",
                os.getpid(),
                greeting.pid,
            )
            self._subscribe()
            self._stop(channel)
        finally:
            channel.close()
        return True

    def _subscribe(self) -> None:
        made: dict[str, Subscription] = {}
        for record in self._records.read_all():
            if record.kernel_id in self.inheritance.subscriptions or not record.output_limit:
                continue
            if can_follow(record.connection_info):
                # Otherwise, the kernel is reported when it is followed.
                with contextlib.suppress(zmq.ZMQError):
                    made[record.kernel_id] = Subscription(self._context, record.connection_info)
        wait_until_effective(made.values(), _HANDSHAKES)
        self.inheritance.subscriptions |= made

    def _stop(self, channel: Channel) -> None:
        channel.send(Stop(hand_over=True))
        while channel.receive():
            while (reply := channel.next_reply()) is not None:
                descriptor = channel.take_descriptor()
                if reply.handed is not None and descriptor is not None:
                    self._inherit(reply.handed, descriptor)

    def _inherit(self, handed: Handed, descriptor: int) -> None:
        delivery = Delivery(socket.socket(fileno=descriptor), handed.base, ended=handed.ended)
        self.inheritance.deliveries[handed.connection] = delivery

    def end(self) -> None:
        """Let others go on that wait for the end of the replacement. Idempotent."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
