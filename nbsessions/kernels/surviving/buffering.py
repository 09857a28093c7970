"""Buffers messages of adopted kernels for clients that were connected when the server died."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tornado.ioloop import IOLoop

from nbsessions.kernels.surviving.reconnecting import remember_sent

_CHANNELS = ("iopub", "shell", "control", "stdin")
_RECONNECT_TIMEOUT = 120.0
"""Seconds that the other clients have to reconnect after the first one has. JupyterLab reconnects
within 31 seconds, but a tab in the background is slower. There is no limit until the first client
is back, as in jupyter_server itself."""


class MessageBuffers:
    """Messages that kernels send to clients that have not reconnected yet.

    jupyter_server buffers messages for only one client of a kernel, and discards them when
    another client connects first. But a page has a connection for each notebook and console,
    and a kernel can be open in many pages.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, dict[str, Any]]] = {}

    def start(self, kernel_id: str, kernel: Any, clients: Iterable[str]) -> None:
        """Buffer what the kernel sends to each of the clients until the client reconnects.

        ``clients`` are session keys of websockets, ``<kernel id>:<session id>``. The kernel
        sends all replies, outstanding ones included, to the socket that has the session id as
        its identity. The buffering sockets therefore use that identity.
        """
        self._waiting[kernel_id] = {client: _listen(kernel, client) for client in clients}

    def take(self, kernel_id: str, client: str) -> dict[str, Any] | None:
        """Return the buffer of a client that has reconnected, as ``get_buffer`` does.

        None if there is no buffer for the client.
        """
        waiting = self._waiting.get(kernel_id)
        if not waiting:
            return None
        # A page that was closed or reloaded never reconnects.
        IOLoop.current().call_later(_RECONNECT_TIMEOUT, self.stop, kernel_id)
        return waiting.pop(client, None)

    def channels(self, kernel_id: str) -> list[dict[str, Any]]:
        """Return the streams of each client that has not reconnected, by channel."""
        return [info["channels"] for info in self._waiting.get(kernel_id, {}).values()]

    def stop(self, kernel_id: str) -> None:
        """Discard the kernel's buffered messages and stop buffering. Idempotent."""
        for info in self._waiting.pop(kernel_id, {}).values():
            for stream in info["channels"].values():
                if not stream.closed():
                    stream.on_recv(None)
                    stream.close()


def _listen(kernel: Any, client: str) -> dict[str, Any]:
    identity = client.partition(":")[2].encode()
    buffer: list[tuple[str, list[bytes]]] = []
    streams = {}
    for channel in _CHANNELS:
        stream = getattr(kernel, f"connect_{channel}")(identity=identity)
        stream.channel = channel
        stream.on_recv(_appender(buffer, channel))
        streams[channel] = stream
    remember_sent(streams)
    return {"session_key": client, "buffer": buffer, "channels": streams}


def _appender(
    buffer: list[tuple[str, list[bytes]]], channel: str
) -> Callable[[list[bytes]], None]:
    return lambda frames: buffer.append((channel, frames))
