"""Moves the contents of an SQLite file to another store, or from there."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from nbsessions.errors import MoveRefused
from nbsessions.identity import new_owner, pid_of
from nbsessions.locks import FileLock
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
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.errors import store_error
from nbsessions.stores.sqlite.folder import StoreFolder
from nbsessions.stores.sqlite.inspection import is_there, opened, schema_of
from nbsessions.stores.sqlite.owners import holds_lock, is_dead
from nbsessions.stores.sqlite.repair import beside, real_path
from nbsessions.stores.sqlite.rows import RowReader, timestamp
from nbsessions.stores.sqlite.schema import MIGRATIONS

Row = TypeVar("Row")

_BUSY_TIMEOUT = 5.0

_SELECT_NAMESPACES = "SELECT namespace, revision FROM nbsessions_namespace ORDER BY rowid"
_SELECT_OWNERS = """SELECT owner, namespace, scope, provider, host, boot, pid, heartbeat, stopped,
    written FROM nbsessions_owner ORDER BY rowid"""
_SELECT_SESSIONS = """SELECT namespace, session_id, scope, provider, path, document, name, type,
    kernel_id, kernel_name, created, last_activity FROM nbsessions_session ORDER BY seq"""
_SELECT_INTENTS = """SELECT token, namespace, scope, document, verb, kernel_id, owner, lease_until
    FROM nbsessions_intent ORDER BY rowid"""
_SELECT_ENDINGS = """SELECT namespace, session_id, reason, ended
    FROM nbsessions_ending ORDER BY rowid"""
_SELECT_NAMES = """SELECT namespace FROM nbsessions_namespace
    UNION SELECT namespace FROM nbsessions_owner UNION SELECT namespace FROM nbsessions_session
    UNION SELECT namespace FROM nbsessions_intent UNION SELECT namespace FROM nbsessions_ending"""
_INSERT_NAMESPACE = "INSERT INTO nbsessions_namespace (namespace, revision) VALUES (?, ?)"
_INSERT_OWNER = """INSERT INTO nbsessions_owner
    (owner, namespace, scope, provider, host, boot, pid, heartbeat, stopped, written)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_SESSION = """INSERT INTO nbsessions_session (namespace, session_id, scope, provider, path,
    document, name, type, kernel_id, kernel_name, created, last_activity)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_INTENT = """INSERT INTO nbsessions_intent
    (token, namespace, scope, document, verb, kernel_id, owner, lease_until)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_ENDING = """INSERT INTO nbsessions_ending (namespace, session_id, reason, ended)
    VALUES (?, ?, ?, ?)"""


class MovableFile(MovableStore):
    """The file of a store, of which only the target need not exist."""

    def __init__(self, path: Path, *, log: logging.Logger) -> None:
        self._path = real_path(path)
        self._log = log
        self.name = str(self._path)

    @contextmanager
    def reading(self) -> Iterator[StoredRows]:
        if not is_there(self._path):
            raise MoveRefused(f"there is no file {self._path}")
        # While this process has the lock, no server opens the file.
        with self._presence() as is_unused:
            with opened(self._path) as connection:
                schema = schema_of(connection)
                if schema < len(MIGRATIONS):
                    raise MoveRefused(
                        f"{self._path} has schema {schema} of session tables, but "
                        f"{len(MIGRATIONS)} is needed. Start and stop a server of this release "
                        "with it first"
                    )
                rows = self._read(connection)
            if not is_unused:
                raise is_in_use(self.name, "a server that has the file open")
            yield rows

    def write(self, rows: StoredRows) -> None:
        folder = StoreFolder(self._path, private=False)
        database = Database(folder.path, folder, busy_timeout=_BUSY_TIMEOUT, log=self._log)
        try:
            with closing(database.open()) as connection, database.transaction(connection):
                there = {row["namespace"] for row in connection.execute(_SELECT_NAMES)}
                if there & set(rows.names):
                    raise has_them_already(self.name, there & set(rows.names))
                try:
                    _insert(connection, rows)
                except sqlite3.IntegrityError as error:
                    raise has_ids_already(self.name, error) from error
        finally:
            database.close()

    @contextmanager
    def _presence(self) -> Iterator[bool]:
        """Hold the lock of servers that have the file open. Yield False if there are any."""
        try:
            lock = FileLock(beside(self._path, ".lock"), flags=os.O_RDWR)
        except FileNotFoundError:
            yield True  # The file is a copy, or no server of ours has used it.
            return
        except OSError as error:
            raise store_error(error, self._path) from error
        try:
            yield lock.acquire()
        finally:
            lock.close()

    def _read(self, connection: sqlite3.Connection) -> StoredRows:
        observer, reader = new_owner(), RowReader(self._path, self._log)

        def owner(row: sqlite3.Row) -> OwnerRow:
            if row["stopped"] is None and holds_lock(self._path, row["owner"]):
                raise is_in_use(self.name, f"the server {row['pid']} on {row['host']}")
            return _owner(row, is_dead=is_dead(row, observer, self._path, reader))

        def read(statement: str, convert: Callable[[sqlite3.Row], Row]) -> list[Row]:
            return [self._convert(row, convert) for row in connection.execute(statement)]

        return StoredRows.of(
            dict(read(_SELECT_NAMESPACES, lambda row: (_text(row["namespace"]), row["revision"]))),
            owners=read(_SELECT_OWNERS, owner),
            sessions=read(_SELECT_SESSIONS, _session),
            intents=read(_SELECT_INTENTS, _intent),
            endings=read(_SELECT_ENDINGS, _ending),
        )

    def _convert(self, row: sqlite3.Row, convert: Callable[[sqlite3.Row], Row]) -> Row:
        try:
            return convert(row)
        except (TypeError, ValueError) as error:
            raise MoveRefused(
                f"{self._path} has a row that cannot be read: {error}: {tuple(row)}"
            ) from error


def _owner(row: sqlite3.Row, *, is_dead: bool) -> OwnerRow:
    heartbeat = _moment(row["heartbeat"])
    stopped = None if row["stopped"] is None else _moment(row["stopped"])
    return OwnerRow(
        owner=_text(row["owner"]),
        namespace=_text(row["namespace"]),
        scope=_text(row["scope"]) or _text(row["owner"]),
        provider=_text(row["provider"]),
        host=_text(row["host"]),
        boot=_text(row["boot"]),
        process="",
        heartbeat=heartbeat,
        # In another store, the owner's lock can no longer prove that it is dead.
        stopped=heartbeat if is_dead and stopped is None else stopped,
        written=row["written"],
    )


def _session(row: sqlite3.Row) -> SessionRow:
    return SessionRow(
        namespace=_text(row["namespace"]),
        session_id=_text(row["session_id"]),
        scope=_text(row["scope"]),
        provider=_text(row["provider"]),
        path=_optional_text(row["path"]),
        document=_optional_text(row["document"]),
        name=_optional_text(row["name"]),
        type=_optional_text(row["type"]),
        kernel_id=_text(row["kernel_id"]),
        kernel_name=_optional_text(row["kernel_name"]),
        created=_moment(row["created"]),
        last_activity=_moment(row["last_activity"]),
    )


def _intent(row: sqlite3.Row) -> IntentRow:
    return IntentRow(
        token=_text(row["token"]),
        namespace=_text(row["namespace"]),
        scope=_text(row["scope"]),
        document=_optional_text(row["document"]),
        verb=_text(row["verb"]),
        kernel_id=_optional_text(row["kernel_id"]),
        owner=_text(row["owner"]),
        lease_until=_moment(row["lease_until"]),
    )


def _ending(row: sqlite3.Row) -> EndingRow:
    return EndingRow(
        namespace=_text(row["namespace"]),
        session_id=_text(row["session_id"]),
        reason=_text(row["reason"]),
        ended=_moment(row["ended"]),
    )


def _insert(connection: sqlite3.Connection, rows: StoredRows) -> None:
    connection.executemany(_INSERT_NAMESPACE, rows.namespaces)
    connection.executemany(
        _INSERT_OWNER,
        (
            (
                row.owner,
                row.namespace,
                row.scope,
                row.provider,
                row.host,
                row.boot,
                pid_of(row.process),
                timestamp(row.heartbeat),
                None if row.stopped is None else timestamp(row.stopped),
                row.written,
            )
            for row in rows.owners
        ),
    )
    for statement, table in (
        (_INSERT_SESSION, rows.sessions),
        (_INSERT_INTENT, rows.intents),
        (_INSERT_ENDING, rows.endings),
    ):
        connection.executemany(statement, (tuple(map(_value, row)) for row in table))


def _value(value: Any) -> Any:
    return timestamp(value) if isinstance(value, datetime) else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    if moment.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return moment
