"""Keeps the replies of kernels to clients that are away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from nbsessions.kernels.surviving.reconnecting import remember_sent

_REPLY_CHANNELS = ("shell", "control", "stdin")
_MOST_CLIENTS = 20
_MOST_REPLIES = 1000
"""For each client. A client that runs a hundred cells and goes away gets a hundred replies."""


class ReplyBuffers:
    """The replies to clients that have not come back yet.

    A kernel sends all replies to a client to the socket that has the client's session id as its
    identity. So such a socket has to stay while the client is away. jupyter_server keeps those of
    only one client of a kernel. But a page has a connection for each notebook and console, and a
    kernel can be open in many pages.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, dict[str, Any]]] = {}

    def start(self, kernel_id: str, kernel: Any, clients: Iterable[str]) -> None:
        """Keep the kernel's replies to clients that were connected to another server.

        ``clients`` are session keys of websockets, ``<kernel id>:<session id>``.
        """
        for client in clients:
            identity = client.partition(":")[2].encode()
            channels = {}
            for channel in _REPLY_CHANNELS:
                channels[channel] = getattr(kernel, f"connect_{channel}")(identity=identity)
                channels[channel].channel = channel
            remember_sent(channels)
            self.keep(kernel_id, client, channels)

    def keep(self, kernel_id: str, client: str, channels: dict[str, Any]) -> None:
        """Keep what arrives on the channels until the client is back.

        What the kernel publishes is kept elsewhere, or not at all.
        """
        if "iopub" in channels:
            _close(channels.pop("iopub"))
        replies: deque[tuple[str, list[bytes]]] = deque(maxlen=_MOST_REPLIES)
        for channel, stream in channels.items():
            stream.on_recv(_appender(replies, channel))
        waiting = self._waiting.setdefault(kernel_id, {})
        self._discard(waiting.pop(client, None))
        waiting[client] = {"session_key": client, "buffer": replies, "channels": channels}
        while len(waiting) > _MOST_CLIENTS:
            self._discard(waiting.pop(next(iter(waiting))))

    def take(self, kernel_id: str, client: str) -> dict[str, Any] | None:
        """Return the replies to a client that is back, and its channels.

        The shape is that of ``get_buffer``. None if nothing was kept for the client.
        """
        return self._waiting.get(kernel_id, {}).pop(client, None)

    def channels(self, kernel_id: str) -> list[dict[str, Any]]:
        """Return the streams of each client that is away, by channel."""
        return [each["channels"] for each in self._waiting.get(kernel_id, {}).values()]

    def stop(self, kernel_id: str) -> None:
        """Discard the kernel's replies. Idempotent."""
        for each in self._waiting.pop(kernel_id, {}).values():
            self._discard(each)

    def _discard(self, kept: dict[str, Any] | None) -> None:
        for stream in kept["channels"].values() if kept else ():
            _close(stream)


def _close(stream: Any) -> None:
    if not stream.closed():
        stream.on_recv(None)
        stream.close()


def _appender(
    replies: deque[tuple[str, list[bytes]]], channel: str
) -> Callable[[list[bytes]], None]:
    return lambda frames: replies.append((channel, frames))
