"""The format of spool files: one record per message, with its position among all of its kernel."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

from msgspec import Struct

from nbsessions.keeper.messages import CONTENT, HEADER, KEY_SIZE, SIGNATURE, key_of

_MAGIC: Final = 0x4E62
_HEAD = struct.Struct(f"<HBBIQQ{KEY_SIZE}sII")
HEAD_SIZE: Final = _HEAD.size
_LENGTH = struct.Struct("<I")
_CHECKSUM_AT: Final = HEAD_SIZE - _LENGTH.size
"""The last field of the head is a checksum of the rest of the record."""
_NO_KEY: Final = b"\0" * KEY_SIZE
_MOST = 2**31
"""Bytes of the longest record that is taken for one."""


class Kind(IntEnum):
    """What a record holds."""

    IOPUB = 1
    SHELL = 2
    """A reply to a client that no server was connected for."""
    STDIN = 3
    LOSS = 4
    """Why the messages are missing that follow the previous record. The frame is the reason."""


CHANNELS: Final = {Kind.IOPUB: "iopub", Kind.SHELL: "shell", Kind.STDIN: "stdin"}


class Record(Struct, frozen=True, kw_only=True):
    """One record of a spool."""

    kind: Kind
    position: int
    """Numbers the messages of a kernel without gaps. A message that was not kept has one, too."""
    lines: int
    """How many lines the kernel has printed up to the end of this message."""
    key: bytes
    frames: list[bytes]
    client: str = ""
    """The session id of the client that a reply is for."""


class Unwritten(Struct, kw_only=True):
    """What will be a record. It is encoded only if there is time to write it."""

    kind: Kind
    frames: Sequence[bytes]
    position: int
    lines: int
    client: str = ""

    @property
    def size(self) -> int:
        """About how many bytes the record will have."""
        return HEAD_SIZE + sum(map(len, self.frames))

    def encode(self) -> list[bytes]:
        """Return the bytes of the record, in parts, so that large frames are not copied."""
        is_loss = self.kind is Kind.LOSS
        key = _NO_KEY if is_loss else key_of(self.frames[SIGNATURE], self.frames[HEADER])
        parts = (self.client.encode(errors="surrogateescape"), *self.frames)
        lengths = struct.pack(f"<{len(parts)}I", *map(len, parts))
        size = len(lengths) + sum(map(len, parts))
        head = _HEAD.pack(
            _MAGIC, self.kind, 0, size, self.position, self.lines, key, len(parts), 0
        )[:_CHECKSUM_AT]
        checksum = zlib.crc32(lengths, zlib.crc32(head))
        for each in parts:
            checksum = zlib.crc32(each, checksum)
        return [b"".join((head, _LENGTH.pack(checksum), lengths)), *parts]


def size_at(data: bytes, offset: int) -> int | None:
    """Return the size of the record at the offset.

    None if the data ends before the record's head does. Raises ValueError if there is no record.
    """
    if len(data) - offset < HEAD_SIZE:
        return None
    magic, _, _, size, *_ = _HEAD.unpack_from(data, offset)
    if magic != _MAGIC or size > _MOST:
        raise ValueError(f"no record at offset {offset}")
    return HEAD_SIZE + int(size)


def is_intact(data: bytes, offset: int, end: int) -> bool:
    """Return whether the record between the offsets is what was written."""
    view = memoryview(data)
    body = offset + HEAD_SIZE
    checksum = zlib.crc32(view[body:end], zlib.crc32(view[offset : offset + _CHECKSUM_AT]))
    return bool(_LENGTH.unpack_from(data, offset + _CHECKSUM_AT)[0] == checksum)


def is_record(data: bytes, offset: int) -> bool:
    """Return whether a whole record is at the offset."""
    try:
        size = size_at(data, offset)
    except ValueError:
        return False
    end = offset + (size or 0)
    return size is not None and end <= len(data) and is_intact(data, offset, end)


def decode(data: bytes, offset: int = 0) -> Record:
    """Return the record at the offset, which the data holds whole. Raises ValueError."""
    if not is_record(data, offset):
        raise ValueError(f"the record at offset {offset} is damaged")
    _, kind, _, _, position, lines, key, *_ = _HEAD.unpack_from(data, offset)
    client, *frames = map(bytes, _parts_at(data, offset))
    return Record(
        kind=Kind(kind),
        position=position,
        lines=lines,
        key=key,
        frames=frames,
        client=client.decode(errors="surrogateescape"),
    )


def message_at(data: bytes, offset: int) -> list[memoryview]:
    """Return the frames of the message in the record at the offset, without a copy of them.

    Raises ValueError for some records that are damaged. Others have nonsense in their frames.
    """
    frames = []
    with contextlib.suppress(struct.error):
        frames = list(_parts_at(data, offset))[1:]
    if len(frames) <= CONTENT:
        raise ValueError(f"the record at offset {offset} is damaged")
    return frames


def _parts_at(data: bytes, offset: int) -> Iterator[memoryview]:
    *_, count, _ = _HEAD.unpack_from(data, offset)
    start = offset + HEAD_SIZE
    lengths = struct.unpack_from(f"<{count}I", data, start)
    start += _LENGTH.size * count
    view = memoryview(data)
    for length in lengths:
        yield view[start : start + length]
        start += length


def position_at(data: bytes, offset: int) -> tuple[int, int, bytes]:
    """Return the position, the lines and the key of the record at the offset."""
    _, _, _, _, position, lines, key, *_ = _HEAD.unpack_from(data, offset)
    return position, lines, key


def kind_at(data: bytes, offset: int) -> Kind:
    """Return what the record at the offset holds."""
    return Kind(_HEAD.unpack_from(data, offset)[1])


KEY_OFFSET: Final = _CHECKSUM_AT - _LENGTH.size - KEY_SIZE
"""Where the key is in a record."""
