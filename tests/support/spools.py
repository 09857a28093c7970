"""What kernels say, in spools that tests write and read."""

from __future__ import annotations

import contextlib
import json
import resource
import uuid
from collections.abc import Iterator
from pathlib import Path

from hypothesis import strategies as st

from nbsessions.keeper.messages import count_lines
from nbsessions.keeper.reading import SpoolReader
from nbsessions.keeper.records import Kind, Record, Unwritten
from nbsessions.keeper.segments import list_segments
from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder

KERNEL = "a-kernel"
EVERYTHING = 2**40
PARENT = b'{"msg_type": "execute_request"}'

texts = st.text(st.characters(exclude_categories=()), max_size=20)
frames = st.lists(st.binary(max_size=50), min_size=5, max_size=8)


def make_message(
    message_type: str, size: int = 0, lines: int = 0, **content: object
) -> list[bytes]:
    """Return the frames of a message from the signature on, with at least ``size`` bytes."""
    header = json.dumps({"msg_id": str(uuid.uuid4()), "msg_type": message_type}).encode()
    if message_type == "stream":
        content = {"name": "stdout", "text": "\n" * lines, **content}
    body = json.dumps(content).encode()
    signature = uuid.uuid4().hex * 2
    missing = max(0, size - len(header) - len(body) - len(signature))
    return [signature.encode(), header, PARENT, b"{}", body, b"x" * missing]


def encoded(
    kind: Kind, message: list[bytes], *, position: int, lines: int, client: str = ""
) -> bytes:
    """Return the bytes of a record."""
    record = Unwritten(kind=kind, frames=message, position=position, lines=lines, client=client)
    return b"".join(record.encode())


class Story:
    """Numbers what a kernel says, as a keeper does."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.position, self.lines = spool.open()
        self.said: dict[int, list[bytes]] = {}
        """All messages, by position."""

    def lose(self, message: list[bytes] | None = None) -> None:
        """Let the kernel say something that is not kept."""
        self._say(message or make_message("stream", lines=1))

    def record(self, message: list[bytes], **fields: str) -> Unwritten:
        """Return the record of what the kernel says next."""
        self._say(message)
        return Unwritten(
            kind=Kind.IOPUB, frames=message, position=self.position, lines=self.lines, **fields
        )

    def say(self, *messages: list[bytes]) -> None:
        """Append what the kernel says to the spool."""
        self.spool.append([self.record(each) for each in messages])

    def _say(self, message: list[bytes]) -> None:
        self.position += 1
        self.lines += count_lines(message)
        self.said[self.position] = message


def read_all(folder: PrivateFolder, position: int = 0, lines: int = 0) -> list[Record]:
    """Return the records in a spool."""
    reader = SpoolReader(folder, KERNEL, position, lines)
    try:
        return read_rest(reader)
    finally:
        reader.close()


def read_rest(reader: SpoolReader) -> list[Record]:
    """Return all that a reader has not read."""
    found = []
    while some := reader.read(EVERYTHING):
        found.extend(some)
    return found


def files(folder: PrivateFolder) -> list[Path]:
    """Return the files of a spool, in order."""
    return [folder.path / each.name for each in list_segments(folder).get(KERNEL, [])]


def size(folder: PrivateFolder) -> int:
    """Return how many bytes the files of a spool have."""
    return sum(each.stat().st_size for each in files(folder))


def damage(file: Path, offset: int) -> None:
    """Change a byte of a file."""
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x55
    file.write_bytes(data)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to make any file larger, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
