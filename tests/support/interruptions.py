"""Lets a test act in the middle of an operation, at a moment of its choice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Interruption:
    """Acts once, at the n-th moment: each call of the store or the kernels, and each reply."""

    def __init__(self) -> None:
        self._left = 0
        self._action: Callable[[], object] | None = None
        self._crashed = False

    def at(self, number: int, action: Callable[[], object]) -> None:
        """Perform the action at the n-th moment from now, counted from 1."""
        self._left, self._action = number, action

    def cancel(self) -> bool:
        """Cancel the action. Return whether it has already happened."""
        action, self._action = self._action, None
        return action is None

    def crash(self) -> None:
        """Let nothing reach the store and the kernels, or return from them, from now on."""
        self._crashed = True

    async def moment(self) -> None:
        """Mark a moment at which the action may happen, and let other tasks run."""
        if self._action is not None:
            await asyncio.sleep(0)
            self._left -= 1
            if self._left == 0 and self._action is not None:
                action, self._action = self._action, None
                action()
                await asyncio.sleep(0)
        if self._crashed:
            raise asyncio.CancelledError
