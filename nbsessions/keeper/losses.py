"""Counts the messages that could not be kept."""

from __future__ import annotations

import threading

LIMIT = "there was more than is kept"


class LossCounter:
    """How many messages of a kernel were lost, and why. Threads may share it."""

    def __init__(self) -> None:
        self.messages = 0
        """Of a loss whose extent is unknown, only the reason is noted."""
        self.reason: str | None = None
        """Why the last ones were lost."""
        self._lock = threading.Lock()

    def add(self, messages: int, reason: str) -> None:
        """Note that messages were lost."""
        with self._lock:
            self.messages += messages
            self.reason = reason
