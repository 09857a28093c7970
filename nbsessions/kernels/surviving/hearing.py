"""Makes sure that an adopted kernel hears the clients that have come back, or will."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import zmq

from nbsessions.kernels import internals

_PATIENCE = 1.0
"""Seconds that an idle kernel has to answer."""
_PAUSE = 0.2
_MOST_RECONNECTIONS = 3
_LOOKED_AFTER_WHEN_IDLE = ("shell", "stdin")

Channels: TypeAlias = Mapping[str, Any]
"""A client's ZMQStreams by channel."""


def remember_sent(channels: Channels) -> None:
    """Remember what the client sends, until it is known that the kernel hears it."""
    for channel in _LOOKED_AFTER_WHEN_IDLE:
        stream = channels[channel]
        stream.unheard = []
        stream.send_multipart = _remembering(stream.send_multipart, stream.unheard)


def _remembering(send: Callable[..., Any], sent: list[list[Any]]) -> Callable[..., Any]:
    def send_and_remember(message: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        frames = list(message)
        sent.append(frames)
        return send(frames, *args, **kwargs)

    return send_and_remember


def _forget_sent(channels: Channels) -> None:
    for channel in _LOOKED_AFTER_WHEN_IDLE:
        if hasattr(channels[channel], "unheard"):
            del channels[channel].unheard, channels[channel].send_multipart


class Hearing:
    """Asks an adopted kernel on its clients' shell streams, and reconnects what it does not hear.

    A client that comes back has the identity that it had before. A kernel whose sockets do not
    hand an identity over (ZMQ_ROUTER_HANDOVER), and that was busy when the server died, has not
    noticed yet that the one before is gone. It rejects the new one, for good and without a word.
    """

    def __init__(
        self,
        kernel: Any,
        *,
        ask: Callable[[Any], str],
        parent_of: Callable[[list[bytes]], str],
    ) -> None:
        """``ask`` sends a request on a stream and returns its id. ``parent_of`` returns which
        request a message answers.
        """
        self._kernel = kernel
        self._ask = ask
        self._parent_of = parent_of

    async def ensure(self, clients: Iterable[Channels]) -> None:
        """Return when the kernel, which is idle now, hears each of the clients."""
        await asyncio.gather(*(_Client(self, each).make_heard() for each in clients))

    def ask(self, stream: Any) -> str:
        """Ask on the client's stream; what the client sends stays apart from it."""
        message_id = self._ask(stream)
        if hasattr(stream, "unheard"):
            stream.unheard.pop()
        return message_id

    def answers(self, frames: list[bytes]) -> str:
        """Return the id of the request that a message answers."""
        return self._parent_of(frames)

    def is_idle(self) -> bool:
        """Return whether the kernel would answer at once."""
        return bool(self._kernel.execution_state == "idle")


class _Client:
    def __init__(self, hearing: Hearing, channels: Channels) -> None:
        self._hearing = hearing
        self._channels = channels
        self._shell = channels["shell"]
        self._requests: set[str] = set()
        self._heard = asyncio.Event()
        self._pass_on: Callable[[list[bytes]], None] = _drop

    async def make_heard(self) -> None:
        try:
            reconnections = 0
            while reconnections < _MOST_RECONNECTIONS and not self._shell.closed():
                if not self._hearing.is_idle():
                    await asyncio.sleep(_PAUSE)
                elif await self._is_heard():
                    return
                # One that is busy by now has heard somebody. An answer that came while somebody
                # else listened is not known here. Only silence of an idle kernel is proof.
                elif self._hearing.is_idle() and self._is_listening():
                    self._reconnect()
                    reconnections += 1
        finally:
            if not self._shell.closed():
                if self._is_listening():
                    self._shell.on_recv(self._pass_on)
                _forget_sent(self._channels)

    async def _is_heard(self) -> bool:
        self._listen()
        self._requests.add(self._hearing.ask(self._shell))
        try:
            await asyncio.wait_for(self._heard.wait(), _PATIENCE)
        except asyncio.TimeoutError:
            return False
        return True

    def _listen(self) -> None:
        """Keep the answers from the client, which has not asked."""
        if not self._is_listening():
            self._pass_on = internals.receiver(self._shell)
            self._shell.on_recv(self._receive)

    def _is_listening(self) -> bool:
        return internals.receiver(self._shell) == self._receive

    def _receive(self, frames: list[bytes]) -> None:
        if self._hearing.answers(frames) in self._requests:
            self._heard.set()
        else:
            self._pass_on(frames)

    def _reconnect(self) -> None:
        """Connect the same sockets again, and send what the kernel has not heard."""
        for channel in _LOOKED_AFTER_WHEN_IDLE:
            stream = self._channels[channel]
            endpoint = stream.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
            stream.socket.disconnect(endpoint)
            stream.socket.connect(endpoint)
            unheard = getattr(stream, "unheard", [])
            again, unheard[:] = list(unheard), []
            for frames in again:
                stream.send_multipart(frames)


def _drop(frames: list[bytes]) -> None:
    pass
