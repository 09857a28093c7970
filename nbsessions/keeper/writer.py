"""Writes spools in a thread of its own, so that the keeper never waits for a slow disk."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

from nbsessions.keeper.compaction import is_expendable
from nbsessions.keeper.records import Unwritten
from nbsessions.keeper.sharing import fair_level
from nbsessions.keeper.spool import Spool

T = TypeVar("T")
_Item: TypeAlias = tuple[Spool, Unwritten] | Callable[[], None]

_MOST_WAITING = 12_000_000
"""Bytes that may wait to be written. If there are more, the oldest of the largest spools go."""
_BATCH = 1_000_000
_GATHERING = 0.02
"""Seconds for which records are gathered after a pause, so that they are written together."""
_NICER = 10
"""How much lower the priority of the thread is. Beside busy kernels, receiving comes first."""
SLOW_DISK = "it was more than could be written in time"


class Writer:
    """A queue of records and other work on spools, which is done in its order."""

    def __init__(self, done: Callable[[Callable[[], None]], None], *, log: logging.Logger) -> None:
        """``done`` is called in the thread with what the main loop has to call."""
        self._done = done
        self._log = log
        self._queue: deque[_Item] = deque()
        self._waiting = 0
        self._is_urgent = False
        """Whether something is not to wait until more is gathered."""
        self._changed = threading.Condition()
        self._closed = False
        self._losing: set[Spool] = set()
        """The spools that a note of a loss is queued for."""
        self._complaints: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def append(self, spool: Spool, record: Unwritten) -> None:
        """Write the record soon. If too much is waiting, the oldest that was printed is lost."""
        size = record.size
        with self._changed:
            if self._waiting + size > _MOST_WAITING:
                self._thin_out()
            if self._waiting + size <= _MOST_WAITING:
                self._waiting += size
                self._put((spool, record), is_urgent=self._waiting >= _BATCH)
            elif spool not in self._losing:
                self._losing.add(spool)
                self._put(lambda: self._note_loss(spool, SLOW_DISK))

    def _put(self, item: _Item, *, is_urgent: bool = False) -> None:
        self._queue.append(item)
        if len(self._queue) == 1 or (is_urgent and not self._is_urgent):
            self._is_urgent = is_urgent
            self._changed.notify()

    def _thin_out(self) -> None:
        """Remove the oldest of what was printed from the queue, so that half of it is free.

        The kernels that print most lose most. One that has stopped printing keeps its newest.
        """
        excess = self._excess()
        queue, self._queue = self._queue, deque()
        losing: set[Spool] = set()
        for item in queue:
            if not isinstance(item, tuple):
                self._queue.append(item)
                continue
            spool, record = item
            if excess[spool] > 0 and is_expendable(record.kind, record.frames):
                excess[spool] -= record.size
                self._waiting -= record.size
                if spool not in losing:
                    losing.add(spool)
                    self._queue.append(partial(self._note_loss, spool, SLOW_DISK))
            else:
                losing.discard(spool)
                self._queue.append(item)

    def _excess(self) -> dict[Spool, int]:
        """Return how many bytes of each spool must go, so that half of the queue is free."""
        sizes: Counter[Spool] = Counter()
        for item in self._queue:
            if isinstance(item, tuple):
                sizes[item[0]] += item[1].size
        being_written = self._waiting - sum(sizes.values())
        level = fair_level(sizes.values(), max(0, _MOST_WAITING // 2 - being_written))
        return {spool: size - level if level is not None else 0 for spool, size in sizes.items()}

    def note_loss(self, spool: Spool, reason: str) -> None:
        """Let the next record that is appended be preceded by the reason of a loss."""
        with self._changed:
            self._put(lambda: self._note_loss(spool, reason))

    def _note_loss(self, spool: Spool, reason: str) -> None:
        self._losing.discard(spool)
        spool.note_loss(reason)

    def run(self, work: Callable[[], T], then: Callable[[T | OSError], None]) -> None:
        """Do the work after all that is queued now. Have the main loop call ``then`` with the
        result, or with the OSError that it raised.
        """

        def job() -> None:
            result: T | OSError
            try:
                result = work()
            except OSError as error:
                result = error
            self._done(lambda: then(result))

        with self._changed:
            self._put(job, is_urgent=True)

    def close(self, timeout: float) -> None:
        """Do what is queued, and end the thread."""
        with self._changed:
            self._closed = self._is_urgent = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        _let_others_go_first()
        while True:
            with self._changed:
                if not self._queue:
                    self._changed.wait_for(lambda: self._queue or self._closed)
                    self._changed.wait_for(lambda: self._is_urgent, _GATHERING)
                if not self._queue:
                    return
                item = self._queue.popleft()
                batch = self._batch(item) if isinstance(item, tuple) else []
            if isinstance(item, tuple):
                self._write(item[0], batch)
            else:
                item()

    def _batch(self, first: tuple[Spool, Unwritten]) -> list[Unwritten]:
        """Return the records of one spool that can be written at once."""
        spool, record = first
        batch, size = [record], record.size
        most = min(_BATCH, spool.part)
        while self._queue and size < most:
            item = self._queue[0]
            if not isinstance(item, tuple) or item[0] is not spool:
                break
            self._queue.popleft()
            batch.append(item[1])
            size += item[1].size
        return batch

    def _write(self, spool: Spool, batch: list[Unwritten]) -> None:
        try:
            spool.append(batch)
        except OSError as error:
            spool.note_loss(f"the files could not be written: {error.strerror}")
            if self._complaints.get(spool.kernel_id) != str(error):
                self._complaints[spool.kernel_id] = str(error)
                self._log.warning("Output of kernel %s is lost: %s", spool.kernel_id, error)
        else:
            self._complaints.pop(spool.kernel_id, None)
        with self._changed:
            self._waiting -= sum(record.size for record in batch)


def _let_others_go_first() -> None:
    """Lower the priority of this thread, where threads have priorities of their own.

    How much waits to be written is bounded. How much waits to be received is not.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            priority = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, priority + _NICER))
