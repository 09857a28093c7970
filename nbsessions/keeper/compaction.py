"""Decides what is kept of the oldest messages, when there is no room for all of them.

What a page needs to make sense of later messages outlasts what was only printed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from nbsessions.keeper import records
from nbsessions.keeper.messages import CONTENT, HEADER, type_of
from nbsessions.keeper.records import Kind, Record
from nbsessions.keeper.segments import offsets

_PRINTED = {"stream", "debug_event", "iopub_welcome"}
_REPLACED = {"update_display_data", "comm_msg"}
"""A later message of the same display or widget says what counts."""
_SHOWN = {"display_data", "execute_result"}
"""These may be large, and nothing refers to them unless they have a display id."""
_NEEDED = {"execute_input", "error", "clear_output", "comm_open", "status"}
"""Without these, a page cannot show what follows, or waits for ever."""
_UPDATES_PER_COMM = 20

_TARGET = re.compile(rb'"(?:display_id|comm_id)"\s*:\s*"([^"\\]*)"')
_STATE = re.compile(rb'"execution_state"\s*:\s*"([^"\\]*)"')


def compact(segments: Iterable[bytes], limit: int) -> bytes:
    """Return those records that are worth keeping, at most ``limit`` bytes."""
    kept = _without_replaced([each for data in segments for each in _worth_keeping(data)])
    for may_go in (_is_shown, _is_not_needed, _is_any):
        kept = list(_shrunk(kept, limit, may_go))
    return b"".join(each.data for each in kept)


class _Kept:
    def __init__(self, record: Record, data: bytes) -> None:
        self.record = record
        self.data = data


def _worth_keeping(data: bytes) -> Iterator[_Kept]:
    """Yield the records that are not expendable. Most are, so only the others are decoded."""
    for start, end in offsets(data, are_checked=False):
        with contextlib.suppress(ValueError):
            if not _is_expendable_at(data, start):
                yield _Kept(records.decode(data, start), data[start:end])


def _is_expendable_at(data: bytes, offset: int) -> bool:
    kind = records.kind_at(data, offset)
    return kind is Kind.IOPUB and is_expendable(kind, records.message_at(data, offset))


def _shrunk(kept: list[_Kept], limit: int, may_go: Callable[[Record], bool]) -> Iterator[_Kept]:
    """Leave out the oldest of those that may go, until the rest is small enough."""
    size = sum(len(each.data) for each in kept)
    for each in kept:
        if size > limit and may_go(each.record):
            size -= len(each.data)
        else:
            yield each


def is_expendable(kind: Kind, frames: Sequence[bytes | memoryview]) -> bool:
    """Return whether a page can make sense of later messages without this one."""
    if kind is not Kind.IOPUB:
        return False
    message_type = type_of(frames[HEADER])
    if message_type == "status":
        # A page waits for this one. The others tell nothing that lasts.
        found = _STATE.search(frames[CONTENT])
        return found is None or found[1] != b"idle"
    return message_type in _PRINTED


def _without_replaced(kept: list[_Kept]) -> list[_Kept]:
    return list(reversed(list(_newest(reversed(kept)))))


def _newest(backwards: Iterable[_Kept]) -> Iterator[_Kept]:
    seen: dict[bytes, int] = {}
    for each in backwards:
        record = each.record
        if record.kind is Kind.IOPUB and type_of(record.frames[HEADER]) in _REPLACED:
            found = _TARGET.search(record.frames[CONTENT])
            target = found[1] if found else b""
            seen[target] = seen.get(target, 0) + 1
            if seen[target] > _UPDATES_PER_COMM:
                continue
        yield each


def _is_shown(record: Record) -> bool:
    if record.kind is not Kind.IOPUB or type_of(record.frames[HEADER]) not in _SHOWN:
        return False
    return b'"display_id"' not in record.frames[CONTENT]


def _is_not_needed(record: Record) -> bool:
    if record.kind is not Kind.IOPUB:
        return False
    return type_of(record.frames[HEADER]) not in _NEEDED | _SHOWN


def _is_any(record: Record) -> bool:
    return True
