"""Moves the contents of a database to another store, or from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import Connection, DataError, errors

from nbsessions.errors import MoveRefused
from nbsessions.identity import new_owner
from nbsessions.stores.moving import (
    EndingRow,
    IntentRow,
    MovableStore,
    OwnerRow,
    SessionRow,
    StoredRows,
    has_ids_already,
    has_them_already,
    is_in_use,
)
from nbsessions.stores.postgres.database import Database
from nbsessions.stores.postgres.owners import OtherOwner
from nbsessions.stores.postgres.schema import MIGRATIONS, migrate, read_version
from nbsessions.stores.postgres.settings import LONGEST_NAMESPACE

_TIMEOUT = 600.0
"""Seconds for reading or writing everything."""

_READ_ONE_STATE = """BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = 0"""
# Every write begins with this table. A server that starts now can write when the move is over.
_KEEP_SERVERS_OUT = "LOCK TABLE nbsessions_namespace IN SHARE ROW EXCLUSIVE MODE"
_SEES_ALL = """SELECT bool_and(pg_has_role(relowner, 'USAGE') OR NOT row_security_active(oid))
    FROM pg_catalog.pg_class WHERE relname = 'nbsessions_session'
    AND pg_catalog.pg_table_is_visible(oid)"""
_SELECT_NAMESPACES = "SELECT namespace, writes FROM nbsessions_namespace ORDER BY namespace"
_SELECT_OWNERS = """SELECT owner, namespace, scope, provider, host, boot, process, heartbeat,
    stopped, written, clock_timestamp() - heartbeat FROM nbsessions_owner
    ORDER BY heartbeat, owner"""
_SELECT_SESSIONS = """SELECT namespace, session_id, scope, provider, path, document, name, type,
    kernel_id, kernel_name, created, last_activity FROM nbsessions_session ORDER BY seq"""
_SELECT_INTENTS = """SELECT token, namespace, scope, document, verb, kernel_id, owner, lease_until
    FROM nbsessions_intent ORDER BY seq"""
_SELECT_ENDINGS = """SELECT namespace, session_id, reason, ended
    FROM nbsessions_ending ORDER BY ended, session_id"""
_SELECT_NAMES = """SELECT name FROM unnest(%s::text[]) AS name WHERE name IN (
    SELECT namespace FROM nbsessions_namespace UNION SELECT namespace FROM nbsessions_owner
    UNION SELECT namespace FROM nbsessions_session UNION SELECT namespace FROM nbsessions_intent
    UNION SELECT namespace FROM nbsessions_ending)"""
# Waits for a transaction that is inserting the same one.
_INSERT_NAMESPACE = """INSERT INTO nbsessions_namespace (namespace, writes, revision)
    VALUES (%s, %s, %s)"""
_INSERT_OWNER = """INSERT INTO nbsessions_owner (owner, namespace, scope, provider, host, boot,
    process, heartbeat, stopped, written) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_INSERT_SESSION = """INSERT INTO nbsessions_session (namespace, session_id, scope, provider, path,
    document, name, type, kernel_id, kernel_name, created, last_activity)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_INSERT_INTENT = """INSERT INTO nbsessions_intent
    (token, namespace, scope, document, verb, kernel_id, owner, lease_until)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"""
_INSERT_ENDING = """INSERT INTO nbsessions_ending (namespace, session_id, reason, ended)
    VALUES (%s, %s, %s, %s)"""
_CLAIM_KERNELS = """INSERT INTO nbsessions_kernel (kernel_id, namespace)
    SELECT kernel_id, namespace FROM nbsessions_session WHERE namespace = ANY(%(names)s)
    UNION SELECT kernel_id, namespace FROM nbsessions_intent
    WHERE namespace = ANY(%(names)s) AND kernel_id IS NOT NULL
    ON CONFLICT DO NOTHING"""


class MovableDatabase(MovableStore):
    """A database, in which a role that sees all namespaces moves them."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` are those of libpq."""
        self._database = Database(settings)
        self.name = self._database.name

    @contextmanager
    def reading(self) -> Iterator[StoredRows]:
        with self._database.single_connection(_TIMEOUT) as connection:
            version = read_version(connection)
            if version < len(MIGRATIONS):
                raise MoveRefused(
                    f"{self.name} has schema {version} of session tables, but {len(MIGRATIONS)} "
                    "is needed. Run `jupyter nbsessions database migrate`"
                )
            self._check_sight(connection)
            connection.execute(_READ_ONE_STATE)
            connection.execute(_KEEP_SERVERS_OUT)
            yield self._read(connection)
            with suppress(psycopg.Error):  # Nothing was written here.
                connection.execute("ROLLBACK")

    def write(self, rows: StoredRows) -> None:
        for name in rows.names:
            size = len(name.encode())
            if size > LONGEST_NAMESPACE:
                raise MoveRefused(
                    f"the namespace {name!r} has {size} bytes, but {self.name} can only have "
                    f"namespaces of up to {LONGEST_NAMESPACE}. Give it another name with "
                    "--namespace OLD=NEW"
                )
        with (
            self._database.single_connection(_TIMEOUT) as connection,
            self._database.transaction(connection),
        ):
            migrate(connection)
            self._check_sight(connection)
            self._insert(connection, rows)

    def _check_sight(self, connection: Connection) -> None:
        row = connection.execute(_SEES_ALL).fetchone()
        if row is None or not row[0]:
            raise MoveRefused(
                f"the role {connection.info.user!r} does not see all namespaces in {self.name}. "
                "Connect as the owner of the tables"
            )

    def _read(self, connection: Connection) -> StoredRows:
        return StoredRows.of(
            dict(connection.execute(_SELECT_NAMESPACES).fetchall()),
            owners=self._owners(connection),
            sessions=_rows(connection, _SELECT_SESSIONS, SessionRow),
            intents=_rows(connection, _SELECT_INTENTS, IntentRow),
            endings=_rows(connection, _SELECT_ENDINGS, EndingRow),
        )

    def _owners(self, connection: Connection) -> Iterator[OwnerRow]:
        observer = new_owner()
        for *columns, silent in connection.execute(_SELECT_OWNERS).fetchall():
            row = OwnerRow(*columns)
            other = OtherOwner(
                owner_id=row.owner,
                provider=row.provider,
                host=row.host,
                boot_id=row.boot,
                process=row.process,
                shares=row.scope != row.owner,
                stopped=row.stopped is not None,
                silent=silent,
            )
            if other.is_live(observer):
                raise is_in_use(self.name, f"the server {row.owner} on {row.host}")
            # Elsewhere, its process can no longer prove that the owner is dead.
            ended = row.stopped is None and other.is_dead(observer)
            yield row._replace(stopped=row.heartbeat) if ended else row

    def _insert(self, connection: Connection, rows: StoredRows) -> None:
        there = connection.execute(_SELECT_NAMES, (rows.names,)).fetchall()
        if there:
            raise has_them_already(self.name, (name for (name,) in there))
        try:
            with connection.cursor() as cursor:
                cursor.executemany(
                    _INSERT_NAMESPACE,
                    [(row.namespace, row.writes, row.writes) for row in rows.namespaces],
                )
                for statement, table in (
                    (_INSERT_OWNER, rows.owners),
                    (_INSERT_SESSION, rows.sessions),
                    (_INSERT_INTENT, rows.intents),
                    (_INSERT_ENDING, rows.endings),
                ):
                    cursor.executemany(statement, table)
                cursor.execute(_CLAIM_KERNELS, {"names": rows.names})
        except errors.UniqueViolation as error:
            raise has_ids_already(self.name, error) from error
        except DataError as error:
            raise MoveRefused(f"{self.name} cannot store a text of the source: {error}") from error


def _rows(connection: Connection, statement: str, kind: Any) -> list[Any]:
    return [kind(*row) for row in connection.execute(statement).fetchall()]
