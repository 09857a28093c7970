"""What happens in the midst of an operation, at a moment that a test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Interruption:
    """Acts once, when store and kernels are called, or have answered, for the n-th time."""

    def __init__(self) -> None:
        self._left = 0
        self._action: Callable[[], object] | None = None
        self._crashed = False

    def at(self, number: int, action: Callable[[], object]) -> None:
        """Have this happen at the n-th moment from now, counted from 1."""
        self._left, self._action = number, action

    def cancel(self) -> bool:
        """Return whether it has happened; if not, it will not."""
        action, self._action = self._action, None
        return action is None

    def crash(self) -> None:
        """From now on nothing reaches store and kernels, nor comes back from there."""
        self._crashed = True

    async def moment(self) -> None:
        """Pass a moment at which something may happen, and let others go on."""
        if self._action is not None:
            await asyncio.sleep(0)
            self._left -= 1
            if self._left == 0 and self._action is not None:
                action, self._action = self._action, None
                action()
                await asyncio.sleep(0)
        if self._crashed:
            raise asyncio.CancelledError
