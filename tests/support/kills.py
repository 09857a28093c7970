"""What other processes do when they are killed in the middle of it."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

from nbsessions.keeper.marks import IOPUB, Mark
from nbsessions.private import PrivateFolder

FRAME = 1000


def key_at(end: int) -> bytes:
    """Return the key of the message that ends after so many bytes."""
    return f"{end:032d}".encode()


def note_without_end(folder: Path, name: str, slow: bool) -> None:
    """Note one message after the other, to a client that takes nothing if it is ``slow``."""
    mark = Mark(PrivateFolder(folder), name, 4)
    for number in itertools.count(1):
        end = 10 * number
        mark.note(IOPUB, key_at(end), end, 0 if slow else max(0, end - 20))


def send_without_end(connection: socket.socket) -> None:
    """Send numbered frames."""
    for number in itertools.count():
        connection.sendall(f"{number:0{FRAME}d}".encode())
