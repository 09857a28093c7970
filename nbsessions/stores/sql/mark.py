"""How a server checks that a store has everything it wrote."""

from __future__ import annotations

from msgspec import Struct

from nbsessions.errors import StoreUnavailable


class StoreReverted(StoreUnavailable):
    """The store was restored to an earlier state, or lacks the owner's row or the tables."""

    def __init__(
        self, text: str = "the session store was restored to an earlier state. Try again"
    ) -> None:
        super().__init__(text)


class Mark(Struct, frozen=True):
    """The last write of a writer, to check that the store has not lost it."""

    revision: int = 0
    """The revision of the namespace after the last write."""
    written: int = 0
    """The number of the last write, as recorded in the owner's row."""

    def is_contained_in(self, revision: int, written: int | None) -> bool:
        """Return whether a store with these values has everything that this writer wrote."""
        return revision >= self.revision and written is not None and written >= self.written
