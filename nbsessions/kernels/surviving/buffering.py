"""Keeps adopted kernels' messages for the clients that were connected when a server died."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tornado.ioloop import IOLoop

from nbsessions.kernels.surviving.hearing import remember_sent

_CHANNELS = ("iopub", "shell", "control", "stdin")
_LATECOMERS = 120.0
"""Seconds that the others have once one client is back. JupyterLab comes within 31 of them, and
a tab in the background is slower. With nobody back there is no limit, as in the server itself."""


class KeptMessages:
    """What kernels send to clients that have not come back yet.

    The server itself keeps messages for one client of a kernel, and drops them when another is
    faster. But a page has a connection for each notebook and console, and a kernel many pages.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, dict[str, Any]]] = {}

    def keep(self, kernel_id: str, kernel: Any, clients: Iterable[str]) -> None:
        """Keep what the kernel sends until each of the clients comes back.

        They are the session keys of websockets, ``<kernel id>:<session id>``. The kernel sends
        its replies, also those that it still owes, to whoever has the session's identity.
        """
        self._kept[kernel_id] = {client: _listen(kernel, client) for client in clients}

    def take(self, kernel_id: str, client: str) -> dict[str, Any] | None:
        """Return what was kept for a client that is back, as a manager's ``get_buffer`` does."""
        waiting = self._kept.get(kernel_id)
        if not waiting:
            return None
        # A page that was closed, or loaded again, never comes back.
        IOLoop.current().call_later(_LATECOMERS, self.drop, kernel_id)
        return waiting.pop(client, None)

    def channels(self, kernel_id: str) -> list[dict[str, Any]]:
        """Return the streams of the clients that have not come back, by channel."""
        return [info["channels"] for info in self._kept.get(kernel_id, {}).values()]

    def drop(self, kernel_id: str) -> None:
        """Drop what was kept of the kernel's messages, and keep no more. Idempotent."""
        for info in self._kept.pop(kernel_id, {}).values():
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
