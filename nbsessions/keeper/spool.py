"""Writes what one kernel says to files, and bounds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from nbsessions.keeper import records
from nbsessions.keeper.compaction import compact
from nbsessions.keeper.records import Kind, Unwritten
from nbsessions.keeper.segments import Segment, list_segments, offsets, read_segment
from nbsessions.private import PrivateFolder

_DRAFT = ".draft"
_MOST_PARTS = 1000
"""The system writes no more than 1024 at once."""
_SEGMENTS = 10
"""How many segments make up what is kept. What is older is thinned out."""


class Spool:
    """The newest messages of one kernel, in segments. All methods block and may raise OSError."""

    def __init__(self, folder: PrivateFolder, kernel_id: str, limit: int) -> None:
        """``limit``: how many bytes of the newest messages are kept whole. It may be changed.

        The files are up to a fifth larger.
        """
        self.kernel_id = kernel_id
        self.limit = limit
        self._folder = folder
        self._segments: list[Segment] = []
        self._sizes: dict[Segment, int] = {}
        self._descriptor: int | None = None
        self._lost: str | None = None

    def open(self) -> tuple[int, int]:
        """Go on after the last record. Return its position and how many lines it ends with."""
        self._remove_drafts()
        self._segments = list_segments(self._folder).get(self.kernel_id, [])
        self._sizes = {}
        last = (0, 0)
        size = 0
        for segment in self._segments:
            data = read_segment(self._folder, segment)
            ends = list(offsets(data))
            size = self._sizes[segment] = ends[-1][1] if ends else 0
            if ends:
                position, lines, _ = records.position_at(data, ends[-1][0])
                last = position, lines
        if not self._segments:
            self._segments = [Segment(kernel_id=self.kernel_id, number=1)]
        self._open_segment(self._segments[-1], size)
        return last

    def _open_segment(self, segment: Segment, size: int) -> None:
        self._close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._descriptor = self._folder.open(segment.name, flags)
        # A record may have been cut short when an earlier keeper was killed.
        os.ftruncate(self._descriptor, size)
        self._sizes[segment] = size

    def append(self, batch: Sequence[Unwritten]) -> None:
        """Write records. After an error, none of them is in the file."""
        if self._descriptor is None:
            self.open()
        if self._lost is not None and batch:
            batch = [_loss_before(batch[0], self._lost), *batch]
        parts = [part for record in batch for part in record.encode()]
        size = sum(map(len, parts))
        self._make_room(size)
        self._write(parts)
        self._sizes[self._segments[-1]] += size
        self._lost = None

    def _write(self, parts: Sequence[bytes]) -> None:
        assert self._descriptor is not None
        rest = parts
        try:
            while rest:
                written = os.writev(self._descriptor, rest[:_MOST_PARTS])
                rest = _following(rest, written)
        except OSError:
            self._take_back(self._segments[-1])
            raise

    def _take_back(self, segment: Segment) -> None:
        """Remove what was written of records that could not be written whole."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._sizes[segment])
        except OSError:
            self._close()  # When it is opened again, what is in it is looked at.

    def note_loss(self, reason: str) -> None:
        """Remember why the next record will not be preceded by all that the kernel said."""
        self._lost = reason

    def _make_room(self, size: int) -> None:
        """Begin a new segment if the current one is full, and thin out the oldest ones."""
        self._begin_segment(size)
        while len(self._segments) > 2 and self.size() + size > self.limit + self.part:
            # A segment may be larger than the others if the limit was lowered. At least the size
            # of the others has to go, because this takes its time.
            self._merge(2, whole=self._room() - size - self.part)

    def _begin_segment(self, size: int) -> None:
        """Begin a new segment unless there is room in the current one."""
        current = self._sizes[self._segments[-1]]
        if current and current + size > self.part:
            following = self._segments[-1].next
            self._open_segment(following, 0)
            self._segments.append(following)

    @property
    def is_too_large(self) -> bool:
        """Whether the limit was lowered, so that there is more than is to be kept."""
        return self.size() > self.limit + self.part

    def shrink(self) -> None:
        """Thin out at once what is more than the limit. Do nothing if the files were removed."""
        if self._descriptor is None:
            return
        self._begin_segment(0)
        while self.is_too_large:
            room, second = self._room(), self._sizes[self._segments[1]]
            if room >= second:
                # What is in the first one has to go only in part.
                self._merge(1, whole=room - second)
                return
            self._merge(2, whole=room)

    def _room(self) -> int:
        """Return how many bytes of the two oldest segments may stay whole."""
        return self.limit - self.size() + sum(self._sizes[each] for each in self._segments[:2])

    @property
    def part(self) -> int:
        """How many bytes of records are written at once at most, unless one is larger."""
        return self.limit // _SEGMENTS

    def _merge(self, count: int, whole: int = 0) -> None:
        """Keep what matters of the oldest segments, in the place of the last of them.

        The newest records of that one stay, so many bytes at most.
        """
        *oldest, last = self._segments[:count]
        # If the disk is full, what matters has to go as well.
        with contextlib.suppress(OSError):
            data = [self._read(each) for each in oldest]
            kept = _thinned(data, self._read(last), self.part, whole)
            self._replace(last, kept)
            self._sizes[last] = len(kept)
        for each in oldest:
            self._remove(each.name)
            del self._segments[0], self._sizes[each]

    def _read(self, segment: Segment) -> bytes:
        """Return what is in a segment, nothing if somebody has removed it."""
        try:
            return read_segment(self._folder, segment)
        except FileNotFoundError:
            return b""

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._folder.remove(name)

    def _replace(self, segment: Segment, data: bytes) -> None:
        draft = f"{segment.name}{_DRAFT}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with open(self._folder.open(draft, flags), "wb") as file:
                file.write(data)
            self._folder.replace(draft, segment.name)
        except OSError:
            with contextlib.suppress(OSError):
                self._folder.remove(draft)
            raise

    def find(self, key: bytes) -> tuple[int, int] | None:
        """Return the position and lines of the message with this key, or None if it is gone."""
        for segment in reversed(self._segments):
            data = self._read(segment)
            end = len(data)
            while (found := data.rfind(key, 0, end)) >= 0:
                start = found - records.KEY_OFFSET
                if start >= 0 and records.is_record(data, start):
                    return records.position_at(data, start)[:2]
                end = found
        return None

    def index(self) -> dict[bytes, tuple[int, int]]:
        """Return the positions and lines of all messages, by key."""
        found = {}
        for segment in self._segments:
            data = self._read(segment)
            for start, _ in offsets(data):
                position, lines, key = records.position_at(data, start)
                found[key] = position, lines
        return found

    def newest_keys(self, size: int) -> list[bytes]:
        """Return the keys of what the kernel has published last, in order.

        It is at least so many bytes, unless the spool has less.
        """
        found: list[bytes] = []
        for segment in reversed(self._segments):
            if size <= 0:
                break
            data = self._read(segment)
            size -= len(data)
            found[:0] = [
                records.position_at(data, start)[2]
                for start, _ in offsets(data)
                if records.kind_at(data, start) is Kind.IOPUB
            ]
        return found

    def size(self) -> int:
        """Return how many bytes the files have."""
        return sum(self._sizes.values())

    def remove(self) -> None:
        """Remove the files."""
        self._close()
        self._remove_drafts()
        for segment in list_segments(self._folder).get(self.kernel_id, []):
            self._remove(segment.name)
        self._segments = []
        self._sizes = {}

    def _remove_drafts(self) -> None:
        """Remove what is left of a segment that an earlier keeper was writing when it ended."""
        for name in self._folder.list_names():
            if name.startswith(f"{self.kernel_id}.") and name.endswith(_DRAFT):
                self._remove(name)

    def close(self) -> None:
        """Close the current file. Idempotent."""
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _loss_before(record: Unwritten, reason: str) -> Unwritten:
    """Return the record that tells why messages before this one are missing."""
    return Unwritten(
        kind=Kind.LOSS,
        frames=[reason.encode()],
        position=record.position - 1,
        lines=record.lines,
    )


def _following(parts: Sequence[bytes], size: int) -> Sequence[bytes]:
    """Return what follows so many bytes."""
    for number, each in enumerate(parts):
        if size < len(each):
            return [each[size:], *parts[number + 1 :]]
        size -= len(each)
    return []


def _thinned(older: list[bytes], newest: bytes, limit: int, whole: int) -> bytes:
    """Return what is worth keeping of some data, and the newest of it as it is."""
    starts = (start for start, _ in offsets(newest, are_checked=False))
    begin = next((start for start in starts if len(newest) - start <= whole), len(newest))
    return compact([*older, newest[:begin]], limit) + newest[begin:]
