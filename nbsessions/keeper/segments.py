"""The files of a kernel's spool: where they are, and what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from msgspec import Struct

from nbsessions.keeper import records
from nbsessions.private import PrivateFolder

_SUFFIX = ".spool"


class Segment(Struct, frozen=True, kw_only=True):
    """A file with consecutive records. A kernel's spool is one or more of them."""

    kernel_id: str
    number: int
    """Later segments have higher numbers."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.kernel_id}.{self.number:08d}{_SUFFIX}"

    @property
    def next(self) -> Segment:
        """The segment that follows this one."""
        return Segment(kernel_id=self.kernel_id, number=self.number + 1)


def list_segments(folder: PrivateFolder) -> dict[str, list[Segment]]:
    """Return the segments of all kernels in their order, by kernel id. Raises OSError."""
    found: dict[str, list[Segment]] = {}
    for name in folder.list_names():
        kernel_id, _, number = name.removesuffix(_SUFFIX).rpartition(".")
        if name.endswith(_SUFFIX) and number.isdecimal():
            segment = Segment(kernel_id=kernel_id, number=int(number))
            found.setdefault(kernel_id, []).append(segment)
    return {kernel_id: sorted(each, key=_number) for kernel_id, each in found.items()}


def _number(segment: Segment) -> int:
    return segment.number


def read_segment(folder: PrivateFolder, segment: Segment) -> bytes:
    """Return the contents of a segment. Raises OSError."""
    with open(folder.open(segment.name, os.O_RDONLY), "rb") as file:
        return file.read()


def first_position(folder: PrivateFolder, segment: Segment) -> int | None:
    """Return the position of a segment's first record, or None if it has none. Raises OSError."""
    with open(folder.open(segment.name, os.O_RDONLY), "rb", buffering=0) as file:
        data = file.read(records.HEAD_SIZE)
    with contextlib.suppress(ValueError):
        if records.size_at(data, 0) is not None:
            return records.position_at(data, 0)[0]
    return None


def offsets(data: bytes, *, are_checked: bool = True) -> Iterator[tuple[int, int]]:
    """Yield where each whole record begins and ends. Stop at the first damage.

    Without ``are_checked``, only the heads are looked at, which takes much less time.
    """
    offset = 0
    with contextlib.suppress(ValueError):
        while (size := records.size_at(data, offset)) is not None:
            end = offset + size
            if end > len(data) or (are_checked and not records.is_intact(data, offset, end)):
                return
            yield offset, end
            offset = end
