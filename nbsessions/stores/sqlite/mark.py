"""How a server knows its file again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """How far a writer has come, by which it knows its file again."""

    revision: int = 0
    """The namespace's revision that the last write left."""
    written: int = 0
    """The same, as it is noted with the owner."""

    def is_known_to(self, revision: int, written: int | None) -> bool:
        """Return whether a file that holds these has all that this writer wrote."""
        return revision >= self.revision and written is not None and written >= self.written
