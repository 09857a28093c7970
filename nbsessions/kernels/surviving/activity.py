"""Finds out whether an adopted kernel is busy or idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from nbsessions.kernels import internals
from nbsessions.kernels.surviving.asking import KernelInfoRequests
from nbsessions.kernels.surviving.reconnecting import Channels, ClientReconnector

_FIRST_DELAY, _LAST_DELAY = 0.1, 30.0
_MOST_REQUESTS = 10
"""A limit, because a busy kernel answers all requests in the end and tells every page about it."""
_LATE_ANSWERS_TIME = 1.0
"""Seconds that late answers to the probe's own requests are still filtered out."""


class IdleProbe:
    """Asks a kernel for its info until it answers. An idle kernel answers at once.

    The request goes to the shell channel, where it waits behind a running cell. The answer is
    read from the iopub stream that the server itself listens to, so that its order relative to
    the other messages is known. Messages that the probe causes are not passed on to the server,
    because they are not activity.
    """

    def __init__(
        self, kernel: Any, *, clients: Callable[[], Iterable[Channels]], log: logging.Logger
    ) -> None:
        """Start listening, because a kernel may send a welcome to new subscribers.

        ``clients`` returns the channels of clients that the kernel must hear once it is idle.
        """
        self._clients = clients
        self._kernel = kernel
        self._requests = KernelInfoRequests(kernel, log=log)
        self._idle = asyncio.Event()
        self._stream = internals.activity_stream(kernel)
        self._pass_on: Callable[[list[bytes]], None] = internals.receiver(self._stream)
        self._stream.on_recv(self._receive)

    async def run(self) -> None:
        """Ask until the kernel has answered or is gone.

        The kernel's state is "busy" until the answer arrives.
        """
        shell = self._kernel.connect_shell()
        delay = _FIRST_DELAY
        try:
            while not self._idle.is_set() and not self._is_over(shell):
                if len(self._requests) < _MOST_REQUESTS:
                    self._requests.send(shell)
                try:
                    await asyncio.wait_for(self._idle.wait(), delay)
                except asyncio.TimeoutError:
                    # The stream is not subscribed yet, or the kernel is really busy.
                    delay = min(2 * delay, _LAST_DELAY)
            if self._idle.is_set():
                reconnector = ClientReconnector(self._kernel, self._requests)
                await reconnector.reconnect(self._clients())
            await asyncio.sleep(_LATE_ANSWERS_TIME)
        finally:
            if not shell.closed():
                shell.close()
            if not self._is_replaced():
                self._stream.on_recv(self._pass_on)

    def _is_over(self, shell: Any) -> bool:
        return bool(shell.closed()) or self._is_replaced()

    def _is_replaced(self) -> bool:
        # After a restart, the server listens to a new stream.
        stream = internals.activity_stream(self._kernel)
        return stream is not self._stream or bool(stream.closed())

    def _receive(self, frames: list[bytes]) -> None:
        if not self._is_caused_by_probe(frames):
            self._pass_on(frames)

    def _is_caused_by_probe(self, frames: list[bytes]) -> bool:
        message = self._requests.read(frames)
        if message is None:
            return False
        if message["msg_type"] == "iopub_welcome":
            return True
        if not self._requests.caused(message):
            return False
        if message["content"].get("execution_state") == "idle" and not self._idle.is_set():
            self._idle.set()
            self._kernel.execution_state = "idle"
        return True
