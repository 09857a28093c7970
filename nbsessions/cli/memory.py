"""Measures the memory of kernels and their child processes."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import psutil


class ProcessTree:
    """A snapshot of which process started which."""

    def __init__(self) -> None:
        self._children: dict[int, list[psutil.Process]] = defaultdict(list)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                self._children[process.ppid()].append(process)

    def memory_of(self, pid: int) -> int | None:
        """Return the resident bytes of a process and its descendants; None if it is gone."""
        try:
            total: int = psutil.Process(pid).memory_info().rss
        except psutil.Error:
            return None
        waiting = list(self._children[pid])
        while waiting:
            process = waiting.pop()
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
            waiting.extend(self._children[process.pid])
        return total
