"""Finds out whether an adopted kernel is busy or idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from jupyter_client.session import Session

from nbsessions.kernels import internals
from nbsessions.kernels.surviving.hearing import Channels, Hearing

_FIRST_DELAY, _LAST_DELAY = 0.1, 30.0
_MOST_REQUESTS = 10
"""A kernel that is busy for long answers all of them in the end, to each page as well."""
_SETTLING_TIME = 1.0
"""Seconds that answers to our own requests may go on coming."""


class IdleProbe:
    """Asks a kernel for its info until it answers, which an idle kernel does at once.

    The request goes to the shell channel, where it waits behind a running cell. The answer is
    looked for on the stream that the server itself listens to, so that it keeps its place among
    the other messages. What is said because of us is kept from the server: it is no activity.
    """

    def __init__(
        self, kernel: Any, *, clients: Callable[[], Iterable[Channels]], log: logging.Logger
    ) -> None:
        """Listen from now on: a kernel may greet new subscribers.

        ``clients``: whom the kernel has to hear as soon as it is idle.
        """
        self._clients = clients
        self._kernel = kernel
        self._log = log
        self._session = _session_like(kernel.session)
        self._requests: set[str] = set()
        self._idle = asyncio.Event()
        self._stream = internals.activity_stream(kernel)
        self._pass_on: Callable[[list[bytes]], None] = internals.receiver(self._stream)
        self._stream.on_recv(self._receive)

    async def run(self) -> None:
        """Ask until the kernel has answered or is gone. Its state is "busy" until it has."""
        shell = self._kernel.connect_shell()
        delay = _FIRST_DELAY
        try:
            while not self._idle.is_set() and not self._is_over(shell):
                if len(self._requests) < _MOST_REQUESTS:
                    self._ask(shell)
                try:
                    await asyncio.wait_for(self._idle.wait(), delay)
                except asyncio.TimeoutError:
                    # Not subscribed yet, or really busy.
                    delay = min(2 * delay, _LAST_DELAY)
            if self._idle.is_set():
                hearing = Hearing(self._kernel, ask=self._ask, parent_of=self._parent_of)
                await hearing.ensure(self._clients())
            await asyncio.sleep(_SETTLING_TIME)
        finally:
            if not shell.closed():
                shell.close()
            if not self._is_replaced():
                self._stream.on_recv(self._pass_on)

    def _ask(self, shell: Any) -> str:
        request = self._session.msg("kernel_info_request", {})
        message_id: str = request["header"]["msg_id"]
        self._requests.add(message_id)
        self._session.send(shell, request)
        return message_id

    def _is_over(self, shell: Any) -> bool:
        return bool(shell.closed()) or self._is_replaced()

    def _is_replaced(self) -> bool:
        # After a restart, the server listens to another stream.
        stream = internals.activity_stream(self._kernel)
        return stream is not self._stream or bool(stream.closed())

    def _receive(self, frames: list[bytes]) -> None:
        if not self._is_ours(frames):
            self._pass_on(frames)

    def _is_ours(self, frames: list[bytes]) -> bool:
        message = self._read(frames)
        if message is None:
            return False
        if message["msg_type"] == "iopub_welcome":
            return True
        if _parent_id(message) not in self._requests:
            return False
        if message["content"].get("execution_state") == "idle" and not self._idle.is_set():
            self._idle.set()
            self._kernel.execution_state = "idle"
        return True

    def _parent_of(self, frames: list[bytes]) -> str:
        message = self._read(frames)
        return "" if message is None else _parent_id(message)

    def _read(self, frames: list[bytes]) -> dict[str, Any] | None:
        try:
            _, parts = self._session.feed_identities(frames)
            return dict(self._session.deserialize(parts))
        except Exception as error:
            self._log.debug("A message that cannot be read: %r", error)
            return None


def _parent_id(message: dict[str, Any]) -> str:
    return str((message["parent_header"] or {}).get("msg_id", ""))


def _session_like(session: Session) -> Session:
    """Return a session that reads the same messages, whatever the other one has read."""
    return Session(
        key=session.key, signature_scheme=session.signature_scheme, digest_history_size=0
    )
