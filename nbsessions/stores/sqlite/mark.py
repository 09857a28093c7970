"""How a server checks that a file has everything it wrote."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """The last write of a writer, to check that the file has not lost it."""

    revision: int = 0
    """The revision of the namespace after the last write."""
    written: int = 0
    """The revision of the last write, as recorded in the owner's row."""

    def is_contained_in(self, revision: int, written: int | None) -> bool:
        """Return whether a file with these values has everything that this writer wrote."""
        return revision >= self.revision and written is not None and written >= self.written
