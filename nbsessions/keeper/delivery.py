"""How much of what a server has sent to a client has been accepted for delivery.

The keeper has a duplicate of the client's TCP socket. When the server dies, the connection stays
open until what the system has accepted is with the client. So the client gets all of that, and
nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from typing import Final

_BYTES_ACKED_AT: Final = 120
"""Where struct tcp_info has tcpi_bytes_acked, see linux/tcp.h."""
_INFO_SIZE: Final = 128
_ATTEMPTS: Final = 100


def sent_bytes(connection: socket.socket) -> int | None:
    """Return how many bytes the system has accepted from the start of the connection on.

    None if the system cannot tell.
    """
    counted = _counted(connection)
    return None if counted is None else sum(counted)


def _counted(connection: socket.socket) -> tuple[int, int] | None:
    """Return how many bytes the client's system has, and how many it does not have yet."""
    for _ in range(_ATTEMPTS):
        before = acknowledged_bytes(connection)
        if before is None:
            return None
        waiting = waiting_bytes(connection)
        if acknowledged_bytes(connection) == before:
            return before, waiting
    return None


def acknowledged_bytes(connection: socket.socket) -> int | None:
    """Return how many bytes the client's system has. None if ours cannot tell."""
    if sys.platform != "linux" or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
    except OSError:
        return None
    if len(info) < _INFO_SIZE:
        return None
    acknowledged: int = struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0]
    return acknowledged


def waiting_bytes(connection: socket.socket) -> int:
    """Return how many bytes the client's system does not have yet."""
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, struct.pack("=i", 0))
    waiting: int = struct.unpack("=i", answer)[0]
    return waiting


class Delivery:
    """The connection of a client whose server is dead or has let it go."""

    def __init__(self, connection: socket.socket, base: int, *, ended: bool = False) -> None:
        """``base``: how many bytes were sent before those that the server counts.

        ``ended``: whether the client has been told already that nothing follows.
        """
        self._connection = connection
        self.base = base
        self.ended = ended
        connection.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._connection.fileno()

    def end(self) -> None:
        """Tell the client that nothing follows what has been accepted."""
        with contextlib.suppress(OSError):  # The client may have ended the connection.
            self._connection.shutdown(socket.SHUT_WR)
            self.ended = True

    def is_complete(self) -> bool:
        """Return whether the client has everything, or has ended the connection.

        What the client sends is dropped. If it stayed unread, the system would reset the
        connection in the end, and drop what is on its way to the client.
        """
        try:
            while self._connection.recv(65536):
                pass
        except BlockingIOError:
            return waiting_bytes(self._connection) == 0
        except OSError:
            pass
        return True

    def accepted(self) -> int | None:
        """Return how many of the bytes that the server counted the client's system has."""
        counted = _counted(self._connection)
        if counted is None:
            return None
        acknowledged, waiting = counted
        # The end of a connection is counted like a byte, which follows all others.
        end = 1 if self.ended and not waiting else 0
        return acknowledged - end - self.base

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._connection.close()
