"""Reads the file of a store without registering as a server. Writes and creates no files."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from nbsessions.errors import StoreUnavailable
from nbsessions.identity import new_owner
from nbsessions.locks import FileLock
from nbsessions.models import Owner, utcnow
from nbsessions.private import open_file
from nbsessions.stores.inspection import (
    OwnerState,
    StoreContents,
    StoredIntent,
    StoredOwner,
    StoredSession,
    StoreInspection,
)
from nbsessions.stores.sqlite.errors import store_error
from nbsessions.stores.sqlite.location import path_from_url
from nbsessions.stores.sqlite.owners import holds_lock, is_dead
from nbsessions.stores.sqlite.repair import beside, real_path
from nbsessions.stores.sqlite.rows import (
    RowReader,
    UnreadableRow,
    ending_from_row,
    heartbeat_from_row,
    intent_from_row,
    session_from_row,
    text_of,
)
from nbsessions.stores.sqlite.schema import read_version
from nbsessions.stores.sqlite.statements import ENDING_COLUMNS, INTENT_COLUMNS, SESSION_COLUMNS
from nbsessions.stores.sqlite.stock import is_stock_file

_BUSY_TIMEOUT = 5.0
_READ_VERSION = 19
"""The offset of the read version in the file header. The value 2 means WAL mode."""

# Without readonly_shm, SQLite would create the log and its index even for a read-only connection.
_WITH_LOG = "mode=ro&readonly_shm=1"

_LOG_HEADER = 32
"""The size in bytes of a log without commits.

A server that is killed right after it has created the file leaves such a log without an index.
SQLite cannot read the file then without creating the index.
"""

_SELECT_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
_SELECT_SESSIONS = f"SELECT {SESSION_COLUMNS}, namespace FROM nbsessions_session ORDER BY seq"
_SELECT_OWNERS = """SELECT owner, namespace, scope, provider, host, boot, pid, heartbeat, stopped
    FROM nbsessions_owner ORDER BY rowid"""
_SELECT_OLD_OWNERS = """SELECT owner, namespace, '' AS scope, '' AS provider, host, boot, pid,
    heartbeat, stopped FROM nbsessions_owner ORDER BY rowid"""
"""For a file that only older releases have opened."""
_HAS_SCOPES = "SELECT 1 FROM pragma_table_info('nbsessions_owner') WHERE name = 'scope'"
_SELECT_OPEN_INTENTS = f"""SELECT {INTENT_COLUMNS}, namespace FROM nbsessions_intent
    WHERE verb <> 'ended' ORDER BY rowid"""
_SELECT_INTENTS = f"SELECT {INTENT_COLUMNS} FROM nbsessions_intent ORDER BY rowid"
_SELECT_ENDINGS = f"SELECT {ENDING_COLUMNS} FROM nbsessions_ending ORDER BY rowid"
_CONVERSIONS: tuple[tuple[str, str, Callable[[sqlite3.Row], object]], ...] = (
    ("nbsessions_session", _SELECT_SESSIONS, session_from_row),
    ("nbsessions_intent", _SELECT_INTENTS, intent_from_row),
    ("nbsessions_owner", _SELECT_OLD_OWNERS, heartbeat_from_row),
    ("nbsessions_ending", _SELECT_ENDINGS, ending_from_row),
)
_LOG = logging.getLogger(__name__)


_SILENT_AFTER = timedelta(minutes=20)
"""Servers send a heartbeat every ten minutes."""


class SQLiteInspection(StoreInspection):
    """Reads the file of a store."""

    file: Path
    namespace_is_folder = True

    def __init__(self, path: Path) -> None:
        """``path`` is the file, which need not exist."""
        self.file = real_path(path)
        self.name = str(self.file)

    def read_contents(self, namespace: str | None = None) -> StoreContents:
        """See StoreInspection."""
        if not is_there(self.file):
            return StoreContents()
        contents = read_contents(self.file)
        if namespace is None:
            return contents
        return StoreContents(
            sessions=tuple(each for each in contents.sessions if each.namespace == namespace),
            intents=tuple(each for each in contents.intents if each.namespace == namespace),
            owners=tuple(each for each in contents.owners if each.namespace == namespace),
        )


def inspection_from_url(url: str) -> SQLiteInspection:
    """Return an inspection for ``sqlite:///absolute/path``."""
    return SQLiteInspection(path_from_url(url))


@dataclass(frozen=True, kw_only=True)
class StoreCondition:
    """The result of the check of a file."""

    schema: int
    """The version of our tables, or 0 if there are none yet."""
    is_stock: bool
    """Whether the file has the table of jupyter_server's own session manager."""
    wal: bool
    damage: str | None
    """The first problem that SQLite's integrity check found, or None."""
    unreadable: tuple[str, ...] = ()
    """One message for each row that servers leave out because it cannot be read."""


def read_contents(path: Path) -> StoreContents:
    """Return the contents of the file. Raises StoreError."""
    path = real_path(path)
    with opened(path) as connection:
        if schema_of(connection) == 0:
            return StoreContents()
        observer, rows = new_owner(), RowReader(path, _LOG)
        return StoreContents(
            sessions=tuple(_sessions(connection, rows)),
            intents=tuple(_open_intents(connection, rows)),
            owners=tuple(
                _owner(row, observer, path, rows)
                for row in connection.execute(_owners_statement(connection))
            ),
        )


def is_there(path: Path) -> bool:
    """Return whether the file exists. Raises StoreError if that cannot be determined."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise store_error(error, path) from error
    return True


def examine(path: Path) -> StoreCondition:
    """Check the whole file. Raises StoreError when the file cannot be read."""
    path = real_path(path)
    with opened(path) as connection:
        verdict: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        schema, whole = schema_of(connection), verdict == "ok"
        return StoreCondition(
            schema=schema,
            is_stock=is_stock_file(connection),
            wal=_has_log(path),
            damage=None if whole else verdict,
            unreadable=tuple(_unreadable_rows(connection)) if schema and whole else (),
        )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that reads one state of the file. Raises StoreError."""
    try:
        with _parameters(path) as parameters:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?{parameters}",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_TIMEOUT,
            )
            try:
                connection.row_factory = sqlite3.Row
                connection.text_factory = text_of
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()
    except (sqlite3.Error, OSError) as error:
        raise store_error(error, path) from error


@contextlib.contextmanager
def _parameters(path: Path) -> Iterator[str]:
    """Yield URI parameters with which SQLite opens the file without creating other files."""
    if not _has_log(path):
        yield "mode=ro"
    elif _has_index(path):
        yield _WITH_LOG
    else:
        # While this process holds the lock, no server opens the file or commits.
        with _write_lock(path):
            yield _undisturbed(path)


def _undisturbed(path: Path) -> str:
    if _has_index(path):  # in the meantime
        return _WITH_LOG
    if beside(path, "-wal").exists() and not _log_is_bare(path):
        raise StoreUnavailable(
            f"the session store {path} cannot be read without changing it, because the index of "
            "its log is missing. The next start of a server creates the index"
        )
    return "mode=ro&immutable=1"


def _has_index(path: Path) -> bool:
    """Return whether the file has a log with an index that SQLite can use.

    That is so while a server has the file open, or if it was killed before it could close it.
    """
    return beside(path, "-shm").exists() and not _log_is_bare(path)


def _log_is_bare(path: Path) -> bool:
    """Return whether the log consists of its header only."""
    try:
        return beside(path, "-wal").stat().st_size == _LOG_HEADER
    except OSError:
        return False


def _has_log(path: Path) -> bool:
    with open(open_file(path, os.O_RDONLY, trusts=lambda status: True), "rb") as file:
        return file.read(_READ_VERSION + 1)[_READ_VERSION:] == b"\x02"


@contextlib.contextmanager
def _write_lock(path: Path) -> Iterator[None]:
    try:
        lock = FileLock(beside(path, ".write"), flags=0)
    except FileNotFoundError:
        yield  # The file is a copy, or no server of ours has used it.
        return
    try:
        if not lock.acquire(shared=True, timeout=_BUSY_TIMEOUT):
            raise StoreUnavailable(f"the session store {path} is locked by another process")
        yield
    finally:
        lock.close()


def schema_of(connection: sqlite3.Connection) -> int:
    """Return the version of our tables. Raises StoreTooNew."""
    if connection.execute(_SELECT_TABLE, ("nbsessions_meta",)).fetchone() is None:
        return 0
    return read_version(connection)


def _sessions(connection: sqlite3.Connection, rows: RowReader) -> Iterator[StoredSession]:
    for row in connection.execute(_SELECT_SESSIONS):
        for session in rows.sessions([row]):
            yield StoredSession(namespace=str(row["namespace"]), session=session)


def _open_intents(connection: sqlite3.Connection, rows: RowReader) -> Iterator[StoredIntent]:
    for row in connection.execute(_SELECT_OPEN_INTENTS):
        for intent in rows.intents([row]):
            yield StoredIntent(namespace=str(row["namespace"]), intent=intent)


def _owners_statement(connection: sqlite3.Connection) -> str:
    has_scopes = connection.execute(_HAS_SCOPES).fetchone() is not None
    return _SELECT_OWNERS if has_scopes else _SELECT_OLD_OWNERS


def _owner(row: sqlite3.Row, observer: Owner, path: Path, rows: RowReader) -> StoredOwner:
    heartbeat = rows.heartbeat(row)
    silent_for = None if heartbeat is None else utcnow() - heartbeat
    return StoredOwner(
        owner=Owner(
            owner_id=row["owner"],
            host=row["host"],
            boot_id=row["boot"],
            pid=row["pid"],
            provider=row["provider"],
            shared_scope="" if row["scope"] == row["owner"] else row["scope"],
        ),
        namespace=row["namespace"],
        silent_for=silent_for,
        state=_state(row, silent_for, observer, path, rows),
    )


def _state(
    row: sqlite3.Row,
    silent_for: timedelta | None,
    observer: Owner,
    path: Path,
    rows: RowReader,
) -> OwnerState:
    if is_dead(row, observer, path, rows):
        return OwnerState.DEAD
    beats = silent_for is not None and silent_for <= _SILENT_AFTER
    return OwnerState.LIVE if beats or holds_lock(path, row["owner"]) else OwnerState.SILENT


def _unreadable_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield a message for each row that servers leave out because it cannot be read."""
    for table, query, convert in _CONVERSIONS:
        if connection.execute(_SELECT_TABLE, (table,)).fetchone() is None:
            continue  # The file is of an older release.
        for row in connection.execute(query):
            try:
                convert(row)
            except UnreadableRow as problem:
                yield str(problem)
