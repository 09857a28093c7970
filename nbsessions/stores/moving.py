"""Moves the contents of one SQL store to another one, whole or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from nbsessions.errors import MoveRefused


class NamespaceRow(NamedTuple):
    """A namespace, and the number of its last write."""

    namespace: str
    writes: int


class OwnerRow(NamedTuple):
    """The record of one run of a server."""

    owner: str
    namespace: str
    scope: str
    provider: str
    host: str
    boot: str
    process: str
    heartbeat: datetime
    stopped: datetime | None
    written: int


class SessionRow(NamedTuple):
    """A session."""

    namespace: str
    session_id: str
    scope: str
    provider: str
    path: str | None
    document: str | None
    name: str | None
    type: str | None
    kernel_id: str
    kernel_name: str | None
    created: datetime
    last_activity: datetime


class IntentRow(NamedTuple):
    """An intent. The verb may be one of a newer release."""

    token: str
    namespace: str
    scope: str
    document: str | None
    verb: str
    kernel_id: str | None
    owner: str
    lease_until: datetime


class EndingRow(NamedTuple):
    """Why a session ended. The reason may be one of a newer release."""

    namespace: str
    session_id: str
    reason: str
    ended: datetime


Row = TypeVar("Row", OwnerRow, SessionRow, IntentRow, EndingRow)


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """The contents of a store. The sessions and intents are in their order, oldest first."""

    namespaces: tuple[NamespaceRow, ...] = ()
    owners: tuple[OwnerRow, ...] = ()
    sessions: tuple[SessionRow, ...] = ()
    intents: tuple[IntentRow, ...] = ()
    endings: tuple[EndingRow, ...] = ()

    @classmethod
    def of(
        cls,
        writes: Mapping[str, int],
        *,
        owners: Iterable[OwnerRow],
        sessions: Iterable[SessionRow],
        intents: Iterable[IntentRow],
        endings: Iterable[EndingRow],
    ) -> StoredRows:
        """Return the contents, with all namespaces of which any row is left.

        ``writes`` maps each known namespace to the number of its last write.
        """
        found = tuple(owners), tuple(sessions), tuple(intents), tuple(endings)
        names = dict.fromkeys([*writes, *(row.namespace for rows in found for row in rows)])
        return cls(
            namespaces=tuple(NamespaceRow(name, writes.get(name, 0)) for name in names),
            owners=found[0],
            sessions=found[1],
            intents=found[2],
            endings=found[3],
        )

    @property
    def names(self) -> list[str]:
        """The names of all namespaces."""
        return [row.namespace for row in self.namespaces]

    def renamed(self, renames: Mapping[str, str]) -> StoredRows:
        """Return the contents with other names of namespaces. Raises MoveRefused."""
        names = [renames.get(name, name) for name in self.names]
        for name, count in Counter(names).items():
            if count > 1:
                raise MoveRefused(f"{count} namespaces would get the name {name!r}")

        def change(rows: Iterable[Row]) -> tuple[Row, ...]:
            return tuple(
                row._replace(namespace=renames.get(row.namespace, row.namespace)) for row in rows
            )

        return StoredRows(
            namespaces=tuple(
                row._replace(namespace=name)
                for row, name in zip(self.namespaces, names, strict=True)
            ),
            owners=change(self.owners),
            sessions=change(self.sessions),
            intents=change(self.intents),
            endings=change(self.endings),
        )


class MovableStore(ABC):
    """A store whose contents can be moved as a whole. All methods block."""

    name: str
    """Where the store is, without any secret."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[StoredRows]:
        """Yield the contents, which this leaves unchanged.

        Raises StoreError, and MoveRefused if a server that is alive uses the store.
        """

    @abstractmethod
    def write(self, rows: StoredRows) -> None:
        """Add the contents in one transaction. Creates the tables if necessary.

        Raises StoreError, and MoveRefused if the store has one of the namespaces already.
        """


def move(source: MovableStore, target: MovableStore, renames: Sequence[str] = ()) -> StoredRows:
    """Add the contents of one store to another one, and return what was added.

    Each of the ``renames`` is ``OLD=NEW``, for a namespace. Raises StoreError if nothing was
    added, and StoreUncertain if that is not known.
    """
    with source.reading() as rows:
        moved = rows.renamed(parse_renames(renames, rows.names))
        if moved.namespaces:
            target.write(moved)
    return moved


def parse_renames(renames: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Return the new names by the old ones. Raises MoveRefused.

    An old name may have "=" in it: it is one of the ``names``.
    """
    parsed: dict[str, str] = {}
    for text in renames:
        known = [name for name in names if text.startswith(f"{name}=")]
        if not known:
            listed = ", ".join(map(repr, names)) or "none"
            raise MoveRefused(
                f"--namespace {text}: this is not OLD=NEW with a namespace of the source, which "
                f"has {listed}"
            )
        old = max(known, key=len)
        new = text[len(old) + 1 :]
        if not new or not _is_unicode(new):
            raise MoveRefused(f"--namespace {text}: the new name is empty or not valid Unicode")
        if parsed.setdefault(old, new) != new:
            raise MoveRefused(f"--namespace {text}: {old!r} was given another name already")
    return parsed


def is_in_use(name: str, server: str) -> MoveRefused:
    """Return the error for a source that a server uses."""
    return MoveRefused(f"{name} is in use by {server}. Stop all its servers first")


def has_them_already(name: str, namespaces: Iterable[str]) -> MoveRefused:
    """Return the error for a target that has some of the namespaces."""
    listed = ", ".join(map(repr, sorted(namespaces)))
    return MoveRefused(
        f"{name} has sessions, or has had them, in the namespace {listed} already. Give it "
        "another name with --namespace OLD=NEW"
    )


def has_ids_already(name: str, error: Any) -> MoveRefused:
    """Return the error for a target that has rows with the same ids in other namespaces."""
    problem = str(error).strip().partition("\n")[0]
    return MoveRefused(f"{name} has some of what would be moved already: {problem}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
