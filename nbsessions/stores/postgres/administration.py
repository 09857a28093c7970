"""What operators do with the database: they migrate and check it, and grant rights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from psycopg import Connection
from psycopg.errors import LockNotAvailable

from nbsessions.errors import InvalidRequest, StoreTooNew
from nbsessions.stores.postgres.database import Database
from nbsessions.stores.postgres.grants import grant_statements
from nbsessions.stores.postgres.schema import (
    MIGRATIONS,
    SHORT_WAITS,
    migrate,
    read_meta,
    read_version,
)
from nbsessions.stores.postgres.settings import check_namespace

T = TypeVar("T")

_TIMEOUT = 60.0
"""Seconds for one command, which may have to wait for others and for servers."""

_PAUSE = 1.0
"""Seconds in which servers can write before a change of tables is tried again."""


@dataclass(frozen=True, kw_only=True)
class SchemaCondition:
    """Which schema a database has, and who can use it."""

    schema: int
    """The version of our tables, or 0 if there are none."""
    oldest_compatible: int | None
    """Releases that create this version or a newer one can use the database."""
    too_new: str | None
    """Why this release cannot use the database, or None."""

    @property
    def needs_migration(self) -> bool:
        """Whether servers of this release have to migrate the database first."""
        return self.schema < len(MIGRATIONS)


class Administration:
    """One database, as operators see it. All methods block, and raise StoreError."""

    needed = len(MIGRATIONS)
    """The version of the tables that this release creates."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` are those of libpq."""
        self._database = Database(settings)
        self.name = self._database.name
        """Where the database is, without any secret."""

    def migrate(self) -> tuple[int, int]:
        """Create or migrate the tables. Return the schemas before and after."""
        return self._patiently(migrate)

    def check(self) -> SchemaCondition:
        """Return which schema the database has."""
        with self._database.single_connection(_TIMEOUT) as connection:
            meta, too_new = read_meta(connection), None
            try:
                read_version(connection)
            except StoreTooNew as error:
                too_new = str(error)
        return SchemaCondition(
            schema=meta.schema,
            oldest_compatible=meta.oldest_compatible if meta.schema else None,
            too_new=too_new,
        )

    def grant(self, namespace: str, role: str, *, apply: bool) -> str:
        """Return a script for psql that isolates the role. With ``apply``, also run it.

        Raises TraitError for a namespace that cannot be stored.
        """
        for text in (check_namespace(namespace), role):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidRequest(repr(text), "is not valid Unicode") from error

        def grant(connection: Connection) -> list[str]:
            with connection.transaction():
                statements = grant_statements(connection, namespace, role, apply=apply)
                if apply:
                    connection.execute(SHORT_WAITS)
                    for statement in statements:
                        connection.execute(statement)
                return [f"{statement.as_string(connection)};\n" for statement in statements]

        return "".join(("BEGIN;\n", f"{SHORT_WAITS};\n", *self._patiently(grant), "COMMIT;\n"))

    def _patiently(self, change: Callable[[Connection], T]) -> T:
        """Change the tables, as soon as nothing else keeps them busy."""
        end = time.monotonic() + _TIMEOUT - 5.0
        with self._database.single_connection(_TIMEOUT) as connection:
            while True:
                try:
                    return change(connection)
                except LockNotAvailable:
                    if time.monotonic() > end:
                        raise
                    time.sleep(_PAUSE)
