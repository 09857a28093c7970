"""What a server has sent to one client, in a file that survives the server at no system call.

The file is mapped into memory. The server notes each message before it hands it to the client's
socket, with the number of bytes that the client must have been sent for the message to be whole.
After the server's death, the keeper knows how many bytes that were.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final

from nbsessions.keeper.messages import KEY_SIZE
from nbsessions.private import PrivateFolder

_HEAD = struct.Struct("<4sIQQ")
_ENTRY = struct.Struct(f"<QQ{KEY_SIZE}s")
_NUMBERS = struct.Struct("<QQ")
_MAGIC: Final = b"nbm1"
_NUMBERS_AT: Final = 8
_FIRST_CAPACITY: Final = 512

IOPUB: Final = 1
REPLY: Final = 2
"""A reply from the spool."""
ANSWERED: Final = 3
"""A reply that came from the kernel itself. The key is that of the request."""


class Mark:
    """The newest messages that a server has handed to a client's socket."""

    def __init__(self, folder: PrivateFolder, name: str, capacity: int = _FIRST_CAPACITY) -> None:
        """Create the file. Raises OSError."""
        self._folder = folder
        self._name = name
        self._count = 0
        self._capacity = capacity
        self._memory = _create(folder, name, _HEAD.size + capacity * _ENTRY.size)
        _HEAD.pack_into(self._memory, 0, _MAGIC, capacity, 0, 0)

    def note(self, kind: int, key: bytes, end: int, done: int) -> None:
        """Note a message that ends after ``end`` bytes. Call this before it is sent.

        ``done`` is how many bytes the system has accepted so far. Raises OSError if there is no
        room for a client that is so slow that more messages are waiting for it than ever before.
        """
        # The newest message that was accepted stays, and all that follow it.
        if self._count >= self._capacity and self._end_of(self._count + 1) > done:
            self._grow()
        _ENTRY.pack_into(self._memory, self._index_of(self._count), end, kind, key)
        self._count += 1
        # Last, because the process may be killed in between.
        _NUMBERS.pack_into(self._memory, _NUMBERS_AT, self._count, done)

    def _index_of(self, number: int) -> int:
        return _HEAD.size + number % self._capacity * _ENTRY.size

    def _end_of(self, number: int) -> int:
        end: int = _ENTRY.unpack_from(self._memory, self._index_of(number))[0]
        return end

    def _grow(self) -> None:
        """Replace the file by one that has room for twice as many messages."""
        entries = list(_entries(self._memory))
        capacity = 2 * self._capacity
        draft = f"{self._name}.draft"
        memory = _create(self._folder, draft, _HEAD.size + capacity * _ENTRY.size)
        for number, entry in enumerate(entries):
            _ENTRY.pack_into(memory, _HEAD.size + number * _ENTRY.size, *entry)
        done = _HEAD.unpack_from(self._memory)[3]
        _HEAD.pack_into(memory, 0, _MAGIC, capacity, len(entries), done)
        self._folder.replace(draft, self._name)
        self._memory.close()
        self._memory, self._capacity, self._count = memory, capacity, len(entries)

    def close(self) -> None:
        """Stop noting. The file stays."""
        self._memory.close()


def _create(folder: PrivateFolder, name: str, size: int) -> mmap.mmap:
    descriptor = folder.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        if hasattr(os, "posix_fallocate"):
            # Without room on the disk, a write to the memory would end the process.
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.ftruncate(descriptor, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _entries(data: bytes | mmap.mmap) -> Iterator[tuple[int, int, bytes]]:
    """Yield the end, the kind and the key of each message, the oldest first."""
    _, capacity, count, _ = _HEAD.unpack_from(data)
    for number in range(max(0, count - capacity), count):
        yield _ENTRY.unpack_from(data, _HEAD.size + number % capacity * _ENTRY.size)


def delivered(data: bytes, accepted: int | None) -> list[tuple[int, bytes]]:
    """Return the kind and the key of each message that was sent, the newest first.

    ``data`` is what is in the file, and ``accepted`` how many bytes the client's socket has
    accepted. None means that nobody knows. The last message may then be missing. Raises
    ValueError if the data is not that of a mark.
    """
    try:
        magic, capacity, count, done = _HEAD.unpack_from(data)
        if magic != _MAGIC or len(data) < _HEAD.size + min(count, capacity) * _ENTRY.size:
            raise ValueError("this is not a mark")
        limit = done if accepted is None else accepted
        sent = [(kind, key) for end, kind, key in _entries(data) if end <= limit]
    except struct.error as error:
        raise ValueError("this is not a mark") from error
    return sent[::-1]
