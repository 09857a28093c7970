"""Tells when a kernel knows a socket that has been connected to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import zmq
from zmq.eventloop.zmqstream import ZMQStream

_TIMEOUT = 1.0
"""Seconds. A handshake that was over before anybody watched for it is not noticed."""


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Handshakes:
    """Watches the handshakes of sockets that have just begun to connect."""

    def __init__(self, streams: Iterable[Any]) -> None:
        self._pending: set[asyncio.Future[None]] = set()
        self._monitors: list[tuple[Any, ZMQStream]] = []
        for stream in streams:
            self._watch(stream.socket)

    def _watch(self, socket: Any) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        address = f"inproc://handshake-{id(done)}"
        socket.monitor(address, zmq.EVENT_HANDSHAKE_SUCCEEDED)
        monitor = ZMQStream(socket.context.socket(zmq.PAIR, socket_class=zmq.Socket))
        monitor.socket.connect(address)
        monitor.on_recv(lambda _: _resolve(done))
        self._pending.add(done)
        self._monitors.append((socket, monitor))

    async def wait(self) -> None:
        """Wait until all of them are over, or for a second."""
        try:
            await asyncio.wait(self._pending, timeout=_TIMEOUT)
        finally:
            self.close()

    def close(self) -> None:
        """Stop watching. Idempotent."""
        while self._monitors:
            socket, monitor = self._monitors.pop()
            with contextlib.suppress(zmq.ZMQError):  # The socket may have been closed.
                socket.disable_monitor()
            monitor.close(linger=0)
