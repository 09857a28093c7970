"""Makes sure that an adopted kernel receives the messages of clients that reconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import zmq

from nbsessions.kernels import internals
from nbsessions.kernels.surviving.asking import KernelInfoRequests

_ANSWER_TIMEOUT = 1.0
"""Seconds that an idle kernel has to answer a request."""
_PAUSE = 0.2
_MOST_ATTEMPTS = 3
_SERVED_WHEN_IDLE = ("shell", "stdin")
"""Channels whose sockets a kernel attends to only when it is idle."""

Channels: TypeAlias = Mapping[str, Any]
"""A client's ZMQStreams by channel."""


def remember_sent(channels: Channels) -> None:
    """Remember the client's messages until it is known that the kernel receives them."""
    for channel in _SERVED_WHEN_IDLE:
        stream = channels[channel]
        stream.unconfirmed = []
        stream.send_multipart = _remembering(stream.send_multipart, stream.unconfirmed)


def _remembering(send: Callable[..., Any], sent: list[list[Any]]) -> Callable[..., Any]:
    def send_and_remember(message: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        frames = list(message)
        sent.append(frames)
        return send(frames, *args, **kwargs)

    return send_and_remember


def _forget_sent(channels: Channels) -> None:
    for channel in _SERVED_WHEN_IDLE:
        if hasattr(channels[channel], "unconfirmed"):
            del channels[channel].unconfirmed, channels[channel].send_multipart


class ClientReconnector:
    """Sends requests on clients' shell streams, and reconnects streams that get no answer.

    A client that reconnects has the same ZMQ identity as before. A kernel that was busy when the
    server died has not noticed yet that the old connection is gone. Unless its sockets hand
    identities over (ZMQ_ROUTER_HANDOVER), it silently rejects the new connection for good.

    A process that this server has launched, as in a restart, knows no old connections. There, a
    connection that replaces another one might be rejected in the same way.
    """

    def __init__(self, kernel: Any, requests: KernelInfoRequests) -> None:
        self._kernel = kernel
        self._requests = requests

    async def reconnect(self, clients: Iterable[Channels]) -> None:
        """Wait until the kernel, which must be idle, receives messages of each client."""
        await asyncio.gather(*(_Client(self, each).reconnect() for each in clients))

    def ask(self, stream: Any) -> str:
        """Send a request on the client's stream, but do not remember it as the client's own."""
        message_id = self._requests.send(stream)
        if hasattr(stream, "unconfirmed"):
            stream.unconfirmed.pop()
        return message_id

    def parent_id(self, frames: list[bytes]) -> str:
        """Return the id of the request that a message answers."""
        return self._requests.parent_of(frames)

    def may_know_clients(self) -> bool:
        """Return whether the kernel's process may have connections from another server."""
        return bool(getattr(self._kernel.provisioner, "is_process_adopted", False))

    def is_idle(self) -> bool:
        """Return whether the kernel is idle, so that it answers at once."""
        return bool(self._kernel.execution_state == "idle")


class _Client:
    def __init__(self, reconnector: ClientReconnector, channels: Channels) -> None:
        self._reconnector = reconnector
        self._channels = channels
        self._shell = channels["shell"]
        self._requests: set[str] = set()
        self._answered = asyncio.Event()
        self._pass_on: Callable[[list[bytes]], None] = _drop

    async def reconnect(self) -> None:
        try:
            attempts = 0
            while attempts < _MOST_ATTEMPTS and not self._shell.closed():
                if not self._reconnector.is_idle():
                    await asyncio.sleep(_PAUSE)
                elif await self._gets_answer():
                    return
                # A kernel that has become busy has received a message. An answer that arrived
                # while the stream had another receiver was not seen here. Only an idle kernel
                # that does not answer proves that it does not receive the client's messages.
                elif self._reconnector.is_idle() and self._is_listening():
                    attempts += 1
                    # Other processes are only asked. An answer tells that all earlier replies
                    # have arrived.
                    if self._reconnector.may_know_clients():
                        self._reconnect()
        finally:
            if not self._shell.closed():
                if self._is_listening():
                    self._shell.on_recv(self._pass_on)
                _forget_sent(self._channels)

    async def _gets_answer(self) -> bool:
        self._listen()
        self._requests.add(self._reconnector.ask(self._shell))
        try:
            await asyncio.wait_for(self._answered.wait(), _ANSWER_TIMEOUT)
        except asyncio.TimeoutError:
            return False
        return True

    def _listen(self) -> None:
        """Intercept the answers, because the client did not send the requests."""
        if not self._is_listening():
            self._pass_on = internals.receiver(self._shell)
            self._shell.on_recv(self._receive)

    def _is_listening(self) -> bool:
        return internals.receiver(self._shell) == self._receive

    def _receive(self, frames: list[bytes]) -> None:
        if self._reconnector.parent_id(frames) in self._requests:
            self._answered.set()
        else:
            self._pass_on(frames)

    def _reconnect(self) -> None:
        """Reconnect the same sockets, and resend the messages that the kernel has not received."""
        for channel in _SERVED_WHEN_IDLE:
            stream = self._channels[channel]
            endpoint = stream.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
            stream.socket.disconnect(endpoint)
            stream.socket.connect(endpoint)
            unconfirmed = getattr(stream, "unconfirmed", [])
            messages, unconfirmed[:] = list(unconfirmed), []
            for frames in messages:
                stream.send_multipart(frames)


def _drop(frames: list[bytes]) -> None:
    pass
