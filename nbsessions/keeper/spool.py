"""Writes what one kernel says to files, and bounds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from nbsessions.keeper import records
from nbsessions.keeper.compaction import compact
from nbsessions.keeper.losses import LIMIT, LossCounter
from nbsessions.keeper.records import Kind
from nbsessions.keeper.segments import Segment, list_segments, offsets, read_segment
from nbsessions.private import PrivateFolder

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
        self.losses = LossCounter()
        self.needed_after: int | None = None
        """The position after which messages are kept for clients that are away, if any are."""

    def open(self) -> tuple[int, int]:
        """Go on after the last record. Return its position and how many lines it ends with."""
        self._segments = list_segments(self._folder).get(self.kernel_id, [])
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

    def append(self, data: Iterable[bytes]) -> None:
        """Write records. After an error, none of them is in the file."""
        if self._descriptor is None:
            self.open()
        block = b"".join(data)
        if self._lost is not None and block:
            position, lines, _ = records.position_at(block, 0)
            reason = [self._lost.encode()]
            loss = records.encode(Kind.LOSS, reason, position=position - 1, lines=lines)
            block = loss + block
        self._write(block)
        self._lost = None

    def _write(self, block: bytes) -> None:
        assert self._descriptor is not None
        segment = self._segments[-1]
        try:
            written = os.write(self._descriptor, block)
            if written < len(block):
                os.write(self._descriptor, block[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._sizes[segment])
            raise
        self._sizes[segment] += len(block)

    def note_loss(self, reason: str, *, messages: int = 1) -> None:
        """Remember why the next record will not be preceded by all that the kernel said.

        ``messages``: how many are missing, 0 if that is unknown.
        """
        self._lost = reason
        self.losses.add(messages, reason)

    def trim(self) -> None:
        """Begin a new segment if the current one is full, and thin out the oldest ones."""
        if self._descriptor is None or self._sizes[self._segments[-1]] <= self.limit // _SEGMENTS:
            return
        following = self._segments[-1].next
        self._open_segment(following, 0)
        self._segments.append(following)
        while len(self._segments) > 2 and self.size() > self.limit * (1 + 1 / _SEGMENTS):
            self._merge()

    def _merge(self) -> None:
        """Keep what matters of the two oldest segments, in the place of the second one."""
        oldest, second = self._segments[:2]
        after = self.needed_after
        needed = self._count_after(after, oldest, second)
        # If the disk is full, what matters has to go as well.
        with contextlib.suppress(OSError):
            data = [read_segment(self._folder, each) for each in (oldest, second)]
            kept = compact(data, self.limit // _SEGMENTS)
            self._replace(second, kept)
            self._sizes[second] = len(kept)
        self._folder.remove(oldest.name)
        del self._segments[0], self._sizes[oldest]
        if lost := needed - self._count_after(after, second):
            self.losses.add(lost, LIMIT)

    def _count_after(self, position: int | None, *segments: Segment) -> int:
        """Return how many messages in segments follow a position, 0 if there is no position."""
        count = 0
        if position is None:
            return count  # No client is away, so nobody misses any.
        for segment in segments:
            with contextlib.suppress(OSError):
                data = read_segment(self._folder, segment)
                for start, _ in offsets(data):
                    found, _, key = records.position_at(data, start)
                    # The record of a loss has no key. What it stands for has been counted.
                    count += found > position and any(key)
        return count

    def _replace(self, segment: Segment, data: bytes) -> None:
        draft = f"{segment.name}.draft"
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
            data = read_segment(self._folder, segment)
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
            data = read_segment(self._folder, segment)
            for start, _ in offsets(data):
                position, lines, key = records.position_at(data, start)
                found[key] = position, lines
        return found

    def size(self) -> int:
        """Return how many bytes the files have."""
        return sum(self._sizes.values())

    def remove(self) -> None:
        """Remove the files."""
        self._close()
        for segment in list_segments(self._folder).get(self.kernel_id, []):
            with contextlib.suppress(FileNotFoundError):
                self._folder.remove(segment.name)
        self._segments = []
        self._sizes.clear()

    def close(self) -> None:
        """Close the current file. Idempotent."""
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
