"""Records how long an event loop is blocked, which is how long a request may have to wait.

- blocked: the time from one poll of the sockets to the next, without the poll itself. A request
  that arrives at the worst moment waits this long. Many short callbacks that are ready at the same
  time add up.
- collector: the time that Python's garbage collector takes of that. A full collection visits all
  objects of the process, which belong to the server, so it takes as long without nbsessions.
"""

from __future__ import annotations

import gc
import selectors
import threading
import time
from typing import Any


class BlockingWatch:
    """Watches the loop that uses the selector. Made in the thread of the loop."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.blocked: list[float] = []
        self.collector: list[float] = []
        self._thread = threading.current_thread()
        self._returned: float | None = None
        self._collecting = 0.0
        self._collected = 0.0
        self._poll = selector.select
        selector.select = self._select  # type: ignore[method-assign]
        gc.callbacks.append(self._note_collection)

    @property
    def without_collector(self) -> list[float]:
        """Each time that the loop was blocked, in seconds, without the collector's part of it."""
        both = zip(self.blocked, self.collector, strict=True)
        return [total - collector for total, collector in both]

    def clear(self) -> None:
        """Discard all measurements, including that of the current step."""
        self.blocked.clear()
        self.collector.clear()
        self._returned = None

    def _note_collection(self, phase: str, _: Any) -> None:
        if threading.current_thread() is not self._thread:
            return
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected += time.perf_counter() - self._collecting

    def _select(self, timeout: float | None = None) -> Any:
        if self._returned is not None:
            self.blocked.append(time.perf_counter() - self._returned)
            self.collector.append(self._collected)
        events = self._poll(timeout)
        self._returned = time.perf_counter()
        self._collected = 0.0
        return events
