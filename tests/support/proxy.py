"""A proxy that breaks the connections through it at the moment that a test chooses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Proxy:
    """Passes on bytes between clients on loopback and a server on a Unix socket."""

    def __init__(self, target: Path) -> None:
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows = threading.Event()
        self._flows.set()
        self._cut: tuple[bytes, bool] | None = None
        self.cuts = 0
        """How many connections were cut by ``cut_at``."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, text: bytes, *, arrives: bool) -> None:
        """Cut the next connection whose client sends the text.

        ``arrives``: whether the server still gets what the client has sent.
        """
        self._cut = (text, arrives)

    def stall(self) -> None:
        """Pass on nothing, as a network that drops all packets."""
        self._flows.clear()

    def flow(self) -> None:
        """Pass on everything again, with what was held back."""
        self._flows.set()

    def close(self) -> None:
        """Cut all connections and accept no more."""
        self._flows.set()
        self._listener.close()
        for pair in self._pairs:
            _close(*pair)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._target)
                except OSError:
                    client.close()
                    continue
                self._pairs.append((client, server))
                threading.Thread(target=self._send, args=(client, server), daemon=True).start()
                threading.Thread(target=self._receive, args=(client, server), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self._flows.wait()
                cut, arrives = self._cut or (b"", False)
                if cut and cut in data:
                    self._cut = None
                    self.cuts += 1
                    if arrives:
                        # Cut it first, so that no answer gets through. The other thread closes
                        # the connection to the server when the answer comes.
                        client.shutdown(socket.SHUT_RDWR)
                        server.sendall(data)
                        return
                    break
                server.sendall(data)
        _close(client, server)

    def _receive(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self._flows.wait()
                client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def running_proxy(target: Path) -> Iterator[Proxy]:
    """Yield a proxy for a Unix socket."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
