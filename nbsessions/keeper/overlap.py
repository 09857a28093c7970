"""Finds out which messages an earlier keeper has kept, when this one has received them as well."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nbsessions.keeper.messages import HEADER, SIGNATURE, NotAMessage, key_of, message_of

_LATE = 5.0
"""Seconds that a message may arrive here later than at the earlier keeper."""


class Overlap:
    """What the earlier keeper has kept last. Both receive a kernel's messages in one order."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys`` are those of the kept messages, in order."""
        self._keys = set(keys)
        self._newest = keys[-1] if keys else b""
        self._deadline = time.monotonic() + _LATE

    def following(self, received: Sequence[list[bytes]]) -> Sequence[list[bytes]]:
        """Return what follows the last of the received messages that was kept.

        What the earlier keeper has left out before that is missing in its files for good.
        """
        for number in range(len(received), 0, -1):
            if self.has(received[number - 1]):
                return received[number:]
        return received

    def has(self, frames: Sequence[bytes]) -> bool:
        """Return whether a message was kept. Its frames are those of a multipart ZMQ message."""
        if not self._keys:
            return False
        try:
            message = message_of(frames)
        except NotAMessage:
            return False
        key = key_of(message[SIGNATURE], message[HEADER])
        found = key in self._keys
        if key == self._newest:
            self._keys.clear()  # All that comes now is new.
        return found

    @property
    def is_over(self) -> bool:
        """Whether all messages from now on are new."""
        return not self._keys or time.monotonic() > self._deadline
