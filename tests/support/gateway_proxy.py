"""A proxy in front of a gateway that counts the requests and fails as a test wants it to."""

from __future__ import annotations

import enum
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_ERROR = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\nConnection: close\r\n\r\nerror"
)


class Fault(enum.Enum):
    """What a client gets instead of the gateway's answer."""

    ERRORS = "errors"
    """Each request is answered with status 500."""
    HANGS = "hangs"
    """Each request is accepted, and passed on when the fault is over."""
    LOSES = "loses"
    """Each request is accepted and never answered. Its connection stays open."""
    REFUSES = "refuses"
    """Each connection is closed at once."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that came through the proxy."""

    at: float
    """When it came, by the monotonic clock."""
    method: str
    path: str
    head: str
    """The request line and the headers."""


class GatewayProxy:
    """Passes on the connections of servers to a gateway. Each of them has one request."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[Request] = []
        self._fault: Fault | None = None
        self._method = ""
        self._over = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self, fault: Fault, *, method: str = "") -> None:
        """Let all new requests fail, or those with this method."""
        self._over.clear()
        self._fault, self._method = fault, method

    def end(self) -> None:
        """Pass on everything again."""
        self._fault = None
        self._over.set()

    def cut(self) -> None:
        """Close all connections."""
        for each in list(self._sockets):
            _close(each)

    def close(self) -> None:
        """Close all connections and accept no more."""
        self.end()
        _close(self._listener)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        fault = self._fault
        if fault is Fault.REFUSES:
            _close(client)
            return
        try:
            head = client.recv(65536)
            method = self._note(head.decode())
            if method != (self._method or method):
                fault = None
            if fault is Fault.LOSES:
                return
            if fault is Fault.HANGS:
                self._over.wait()
            if fault is Fault.ERRORS:
                client.sendall(_ERROR)
                _close(client)
            else:
                self._connect(client, head)
        except (OSError, ValueError):  # hung up
            _close(client)

    def _note(self, head: str) -> str:
        method, path, _ = head.split(" ", 2)
        self.requests.append(Request(at=time.monotonic(), method=method, path=path, head=head))
        return method

    def _connect(self, client: socket.socket, head: bytes) -> None:
        with socket.create_connection(self._target) as server:
            self._sockets.append(server)
            server.sendall(head)
            threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
            _pass_on(server, client)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _close(source)
    _close(target)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def gateway_proxy(port: int) -> Iterator[GatewayProxy]:
    """Yield a proxy in front of the gateway on this port."""
    proxy = GatewayProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
