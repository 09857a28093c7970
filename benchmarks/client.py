"""A client that asks for one thing again and again, faster than any server answers."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping

CONNECTIONS = 4
_BUFFER = bytearray(1 << 20)
_END_OF_HEADER = b"\r\n\r\n"
_LENGTH = b"content-length:"
_OK, _UNCHANGED = b"HTTP/1.1 200 ", b"HTTP/1.1 304 "
_TIMEOUT = 60.0


class Connection:
    """A connection that is kept open, with one request at a time."""

    def __init__(self, port: int, request: bytes, *, maybe_unchanged: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._request = request
        self._maybe_unchanged = maybe_unchanged
        self._header = b""
        self._left: int | None = None

    def send(self) -> None:
        self._header, self._left = b"", None
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Read what has come, and return whether the reply is complete."""
        # Header lines are copied. Of what follows them, only the number of bytes counts.
        count = self.socket.recv_into(_BUFFER, 4096 if self._left is None else 0)
        if count == 0:
            raise ConnectionError("the server has closed the connection")
        if self._left is None:
            self._header += _BUFFER[:count]
            header, found, rest = self._header.partition(_END_OF_HEADER)
            if not found:
                return False
            self._left = self._length(header) - len(rest)
        else:
            self._left -= count
        return self._left == 0

    def _length(self, header: bytes) -> int:
        if self._maybe_unchanged and header.startswith(_UNCHANGED):
            return 0
        _, found, rest = header.lower().partition(_LENGTH)
        if not found or not header.startswith(_OK):
            raise RuntimeError(f"unexpected reply: {header[:200]!r}")
        return int(rest.partition(b"\r\n")[0])


def get(path: str, headers: Mapping[str, str]) -> bytes:
    """Return a request."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def rate(port: int, request: bytes, seconds: float, *, maybe_unchanged: bool = False) -> float:
    """Return how many replies the server sends in a second.

    Requests are sent for so many seconds, and all replies are waited for. Each must have the
    status 200, or if ``maybe_unchanged``, 304.
    """
    selector = selectors.DefaultSelector()
    connections = [
        Connection(port, request, maybe_unchanged=maybe_unchanged) for _ in range(CONNECTIONS)
    ]
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    begun = time.perf_counter()
    for connection in connections:
        connection.send()
    replies, waiting = 0, len(connections)
    while waiting:
        ready = selector.select(_TIMEOUT)
        if not ready:
            raise TimeoutError("the server does not answer")
        for key, _ in ready:
            if not key.data.receive():
                continue
            replies += 1
            if time.perf_counter() - begun < seconds:
                key.data.send()
            else:
                waiting -= 1
    taken = time.perf_counter() - begun
    for connection in connections:
        connection.socket.close()
    selector.close()
    return replies / taken
