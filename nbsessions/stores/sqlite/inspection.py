"""Looks into the file of a store without being one of its servers: nothing is written or made."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from nbsessions.errors import StoreUnavailable
from nbsessions.identity import new_owner
from nbsessions.locks import FileLock
from nbsessions.models import Owner, Session
from nbsessions.stores.sqlite.errors import store_error
from nbsessions.stores.sqlite.owners import is_dead
from nbsessions.stores.sqlite.repair import beside
from nbsessions.stores.sqlite.rows import (
    RowReader,
    UnreadableRow,
    heartbeat_from_row,
    intent_from_row,
    session_from_row,
    text_of,
)
from nbsessions.stores.sqlite.schema import read_version
from nbsessions.stores.sqlite.statements import INTENT_COLUMNS, SESSION_COLUMNS
from nbsessions.stores.sqlite.stock import is_stock_file

_BUSY_TIMEOUT = 5.0
_READ_VERSION = 19
"""Where the header says how the file is read: 2 stands for a write-ahead log."""

# SQLite would make the log and its index, even for a connection that only reads.
_WITH_LOG = "mode=ro&readonly_shm=1"

_LOG_HEADER = 32
"""Bytes of a log without any commit. SQLite cannot read beside one whose index is not made yet,
as when a server was killed just after it had made the file.
"""

_SELECT_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
_SELECT_SESSIONS = f"SELECT {SESSION_COLUMNS}, namespace FROM nbsessions_session ORDER BY seq"
_SELECT_OWNERS = """SELECT owner, namespace, host, boot, pid, heartbeat, stopped
    FROM nbsessions_owner ORDER BY rowid"""
_SELECT_INTENTS = f"SELECT {INTENT_COLUMNS} FROM nbsessions_intent ORDER BY rowid"
_CONVERSIONS: tuple[tuple[str, Callable[[sqlite3.Row], object]], ...] = (
    (_SELECT_SESSIONS, session_from_row),
    (_SELECT_INTENTS, intent_from_row),
    (_SELECT_OWNERS, heartbeat_from_row),
)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StoredOwner:
    """One run of one server that has written to the file."""

    owner: Owner
    namespace: str
    heartbeat: datetime | None
    """None when it cannot be read."""
    dead: bool
    """Proven dead, or silent for a day; see ``is_dead``."""


@dataclass(frozen=True, kw_only=True)
class StoredSession:
    """A session and the namespace that it is in."""

    namespace: str
    session: Session


@dataclass(frozen=True, kw_only=True)
class StoreContents:
    """The sessions and owners of all namespaces, oldest first."""

    sessions: tuple[StoredSession, ...] = ()
    owners: tuple[StoredOwner, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StoreCondition:
    """What a file is like."""

    schema: int
    """The version of our tables; 0 when there are none yet."""
    is_stock: bool
    """Whether jupyter_server's own session manager has a table in it."""
    wal: bool
    damage: str | None
    """What SQLite's integrity check found first."""
    unreadable: tuple[str, ...] = ()
    """The rows that servers leave out, and what is wrong with each."""


def read_contents(path: Path) -> StoreContents:
    """Return what is kept in the file. Raises StoreError."""
    path = path.resolve()
    with _opened(path) as connection:
        if _schema(connection) == 0:
            return StoreContents()
        judge, rows = new_owner(), RowReader(path, _LOG)
        return StoreContents(
            sessions=tuple(_sessions(connection, rows)),
            owners=tuple(
                _owner(row, judge, path, rows) for row in connection.execute(_SELECT_OWNERS)
            ),
        )


def examine(path: Path) -> StoreCondition:
    """Check the whole file. Raises StoreError when it cannot be read at all."""
    path = path.resolve()
    with _opened(path) as connection:
        verdict: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        schema, whole = _schema(connection), verdict == "ok"
        return StoreCondition(
            schema=schema,
            is_stock=is_stock_file(connection),
            wal=_has_log(path),
            damage=None if whole else verdict,
            unreadable=tuple(_unreadable_rows(connection)) if schema and whole else (),
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
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
    """Yield how SQLite is to open the file so that it makes no other beside it."""
    if not _has_log(path):
        yield "mode=ro"
    elif _has_index(path):
        yield _WITH_LOG
    else:
        # As long as we have the lock, nobody opens the file or commits.
        with _write_lock(path):
            yield _undisturbed(path)


def _undisturbed(path: Path) -> str:
    if _has_index(path):  # in the meantime
        return _WITH_LOG
    if beside(path, "-wal").exists() and not _log_is_bare(path):
        raise StoreUnavailable(
            f"the session store {path} cannot be read without changing it: its log lacks an "
            "index, which the next start of a server makes"
        )
    return "mode=ro&immutable=1"


def _has_index(path: Path) -> bool:
    """Return whether a server has it open, or was killed before it could close it."""
    return beside(path, "-shm").exists() and not _log_is_bare(path)


def _log_is_bare(path: Path) -> bool:
    """Return whether the log has its header and no more."""
    try:
        return beside(path, "-wal").stat().st_size == _LOG_HEADER
    except OSError:
        return False


def _has_log(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(_READ_VERSION + 1)[_READ_VERSION:] == b"\x02"


@contextlib.contextmanager
def _write_lock(path: Path) -> Iterator[None]:
    try:
        lock = FileLock(beside(path, ".write"), flags=0)
    except FileNotFoundError:
        yield  # A copy, or a file that none of our servers has used.
        return
    try:
        if not lock.acquire(shared=True, timeout=_BUSY_TIMEOUT):
            raise StoreUnavailable(f"the session store {path} is locked by another process")
        yield
    finally:
        lock.close()


def _schema(connection: sqlite3.Connection) -> int:
    """Return the version of our tables. Raises StoreTooNew."""
    if connection.execute(_SELECT_TABLE, ("nbsessions_meta",)).fetchone() is None:
        return 0
    return read_version(connection)


def _sessions(connection: sqlite3.Connection, rows: RowReader) -> Iterator[StoredSession]:
    for row in connection.execute(_SELECT_SESSIONS):
        for session in rows.sessions([row]):
            yield StoredSession(namespace=str(row["namespace"]), session=session)


def _owner(row: sqlite3.Row, judge: Owner, path: Path, rows: RowReader) -> StoredOwner:
    return StoredOwner(
        owner=Owner(owner_id=row["owner"], host=row["host"], boot_id=row["boot"], pid=row["pid"]),
        namespace=row["namespace"],
        heartbeat=rows.heartbeat(row),
        dead=is_dead(row, judge, path, rows),
    )


def _unreadable_rows(connection: sqlite3.Connection) -> Iterator[str]:
    """Go through the rows that servers leave out, and say what is wrong with each."""
    for query, convert in _CONVERSIONS:
        for row in connection.execute(query):
            try:
                convert(row)
            except UnreadableRow as problem:
                yield str(problem)
