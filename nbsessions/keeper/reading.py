"""Reads spools while the keeper writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from msgspec import Struct

from nbsessions.keeper import records
from nbsessions.keeper.messages import count_lines
from nbsessions.keeper.records import Kind, Record
from nbsessions.keeper.segments import (
    Segment,
    first_position,
    list_segments,
    offsets,
    read_segment,
)
from nbsessions.private import PrivateFolder

LIMIT = "there was more than is kept"
_CHUNK = 1_000_000


class Losses(Struct, kw_only=True):
    """What is missing in a part of a spool that has been read."""

    messages: int = 0
    lines: int = 0
    reason: str = ""

    def add(self, other: Losses) -> None:
        """Count another loss as well."""
        self.messages += other.messages
        self.lines += other.lines
        self.reason = other.reason or self.reason

    def describe(self) -> str | None:
        """Return a sentence for users, or None if nothing that they see is missing."""
        if self.lines:
            lines = "1 line" if self.lines == 1 else f"{self.lines:,} lines"
            verb = "is" if self.lines == 1 else "are"
            return f"{lines} of output {verb} missing: {self.reason}."
        if self.messages and self.reason != LIMIT:
            return f"Output may be missing: {self.reason}."
        return None  # Of what is superseded, only the newest is kept.


class SpoolReader:
    """Reads what follows a position, in order. All methods block and may raise OSError."""

    def __init__(self, folder: PrivateFolder, kernel_id: str, position: int, lines: int) -> None:
        """Begin after this position. ``lines`` is how many lines the kernel had printed there."""
        self.position = position
        """The position of the last record that was read."""
        self.losses = Losses()
        self.gaps: dict[int, Losses] = {}
        """What is missing right before a record, by the record's position."""
        self._reason = ""
        self._lines = lines
        self._folder = folder
        self._kernel_id = kernel_id
        self._segment: Segment | None = None
        self._descriptor: int | None = None
        self._data = b""
        self._begin = 0
        """Where the data begins in the file."""
        self._offset = 0
        """Where the next record begins in the data."""

    def read(self, most: int) -> list[Record]:
        """Return the next records, some ``most`` bytes. An empty list means that these are all."""
        found: list[Record] = []
        size = 0
        while size < most:
            record = self._next()
            if record is None:
                break
            if self._is_new(record):
                found.append(record)
                size += sum(map(len, record.frames))
        return found

    def _is_new(self, record: Record) -> bool:
        if record.kind is Kind.LOSS:
            if record.position > self.position:
                self._reason = record.frames[0].decode(errors="replace")
            return False
        if record.position > self.position + 1:
            self._note_gap(record)
        is_new = record.position > self.position
        if record.position >= self.position:
            self.position, self._lines = record.position, record.lines
        return is_new

    def _note_gap(self, record: Record) -> None:
        gap = Losses(
            messages=record.position - self.position - 1,
            lines=record.lines - count_lines(record.frames) - self._lines,
            reason=self._reason or LIMIT,
        )
        self._reason = ""
        self.gaps[record.position] = gap
        self.losses.add(gap)

    def _next(self) -> Record | None:
        while True:
            record = self._decoded()
            if record is not None:
                return record
            if not self._read_more() and not self._open_next():
                # What there is of the next record may yet be replaced, after a full disk.
                self._drop()
                return None

    def _decoded(self) -> Record | None:
        """Return the next record if it has been read whole, and is not damaged."""
        while (end := self._end_of_record()) is not None:
            offset, self._offset = self._offset, end
            if records.position_at(self._data, offset)[0] >= self.position:
                return records.decode(self._data, offset)
        return None

    def _end_of_record(self) -> int | None:
        try:
            size = records.size_at(self._data, self._offset)
        except ValueError:
            return None
        if size is None or not records.is_record(self._data, self._offset):
            return None
        return self._offset + size

    def _read_more(self) -> bool:
        if self._descriptor is None:
            return False
        rest = self._data[self._offset :]
        self._drop()
        data = os.pread(self._descriptor, _CHUNK, self._begin + len(rest))
        self._data = rest + data
        return bool(data)

    def _drop(self) -> None:
        self._begin += self._offset
        self._data, self._offset = b"", 0

    def _open_next(self) -> bool:
        """Open the next segment. Return whether there is one."""
        segments = list_segments(self._folder).get(self._kernel_id, [])
        try:
            following = self._following(segments)
            if following is None:
                return False
            descriptor = self._folder.open(following.name, os.O_RDONLY)
        except FileNotFoundError:
            return True  # It was merged into the next one just now.
        if self._has_changed():
            os.close(descriptor)
            return True
        self.close()
        self._segment, self._descriptor = following, descriptor
        self._data, self._begin, self._offset = b"", 0, 0
        return True

    def _has_changed(self) -> bool:
        """Return whether there is another record in the current segment after all.

        The keeper writes no more to it once there is another segment, but it may have done so
        since the last read. If there is something that is no record, the rest is damaged.
        """
        self._drop()
        while self._read_more():
            if self._decoded() is not None:
                self._offset = 0
                return True
        return False

    def _following(self, segments: Sequence[Segment]) -> Segment | None:
        if self._segment is not None:
            number = self._segment.number
            return next((each for each in segments if each.number > number), None)
        for segment in reversed(segments[1:]):
            first = first_position(self._folder, segment)
            if first is not None and first <= self.position:
                return segment
        return segments[0] if segments else None

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def bytes_after(folder: PrivateFolder, kernel_id: str, position: int) -> int:
    """Return how many bytes of a spool follow a position. Blocks. Raises OSError."""
    size = 0
    for segment in reversed(list_segments(folder).get(kernel_id, [])):
        with contextlib.suppress(FileNotFoundError):  # It was merged into the next one just now.
            first = first_position(folder, segment)
            if first is not None and first <= position:
                return size + _part_after(position, read_segment(folder, segment))
            size += folder.status(segment.name).st_size
    return size


def _part_after(position: int, data: bytes) -> int:
    for start, _ in offsets(data):
        if records.position_at(data, start)[0] > position:
            return len(data) - start
    return 0
