"""The SQLite file: its permissions, locks, journal mode, and its repair."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from nbsessions.errors import StoreDamaged, StoreError, StoreUncertain
from nbsessions.locks import SUPPORTED
from nbsessions.stores.sqlite.errors import is_damage, store_error
from nbsessions.stores.sqlite.filesystem import is_local
from nbsessions.stores.sqlite.folder import StoreFolder
from nbsessions.stores.sqlite.locks import StoreLocks
from nbsessions.stores.sqlite.repair import Repair, beside, make_private
from nbsessions.stores.sqlite.rows import RowReader, text_of
from nbsessions.stores.sqlite.schema import migrate
from nbsessions.stores.sqlite.stock import is_stock_file

_CHECKPOINT_AFTER = 100
"""Commits between two checkpoints. Syncing a reused log is cheaper than syncing a growing one."""
_LARGEST_LOG = 8_000_000
"""The size in bytes above which a log is truncated after a checkpoint."""

_SYNC_FULL = "PRAGMA synchronous = FULL"
_SYNC_NORMAL = "PRAGMA synchronous = NORMAL"
_FULL_MESSAGE = "disk is full"


class Database:
    """One file, opened by one server. All methods block; call them off the event loop.

    A lock ensures that only one server commits or runs a checkpoint at a time. SQLite before
    3.51.3 can corrupt a WAL file when one connection commits while another runs a checkpoint
    (https://sqlite.org/wal.html#walresetbug), and such versions will be in use for years.
    """

    def __init__(
        self, path: Path, folder: StoreFolder, *, busy_timeout: float, log: logging.Logger
    ) -> None:
        self.path = path
        self.wal = False
        self._folder = folder
        self._busy_timeout = busy_timeout
        self._log = log
        self._repair = Repair(path, log)
        self.damage: sqlite3.Error | None = None
        """SQLite's error if it reported damage in use. A check of the file may not find it."""
        self.locks = StoreLocks(path, timeout=busy_timeout)
        self.rows = RowReader(path, log)
        self._opened: os.stat_result | None = None
        self._log_seen: os.stat_result | None = None
        self._commits = 0
        self.close_readers: list[Callable[[], None]] = []
        """One callback for each reading connection, which closes it."""
        self.needs_restore = False
        """Whether this server must restore its sessions in the file before it reads it again."""
        self.generation = 0
        """Counts how often the file was opened. Readers reconnect when it changes."""

    def open(self) -> sqlite3.Connection:
        """Open the file for writing. Creates or repairs it if necessary. Raises StoreError."""
        try:
            self._open_locks()
            # SQLite does not wait for other connections when the journal mode changes.
            with self.locks.for_writing():
                self._drop_leftover_log()
                connection = self._connect_or_repair()
        except (sqlite3.Error, OSError) as error:
            raise store_error(error, self.path) from error
        self.generation += 1
        return connection

    def lock_owner(self, owner_id: str) -> None:
        """Acquire the lock that shows that the owner is alive. Raises StoreError."""
        try:
            self.locks.lock_owner(owner_id)
        except OSError as error:
            raise store_error(error, self.path) from error

    def renew_locks(self) -> None:
        """Acquire the locks again whose files were replaced. Raises StoreError."""
        if not self.locks.are_current():
            try:
                self._open_locks()
            except OSError as error:
                raise store_error(error, self.path) from error

    def is_in_place(self) -> bool:
        """Return whether the open file and lock files are still at their paths."""
        return not self.is_replaced() and self.locks.are_current()

    def shut_out_readers(self) -> None:
        """Close all readers. They stay closed until ``needs_restore`` is reset.

        A connection to a file that was removed maps the same index file as the next connection,
        which truncates it.
        """
        self.needs_restore = True
        for close in self.close_readers:
            close()

    def _connect_or_repair(self) -> sqlite3.Connection:
        if self.is_replaced():
            self.damage = None  # The damage was in the previous file.
        problem: object = self.damage
        if self._repair.is_under_way:
            problem = "an earlier repair was interrupted"
        elif problem is None:
            try:
                return self._connect()
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                problem = error
        with self.locks.exclusively(problem):
            self.shut_out_readers()
            if not self._repair.is_under_way:
                self._repair.start()
            self._repair.finish(problem)
            self.damage = None
            return self._connect()

    def error(self, error: sqlite3.Error | OSError) -> StoreError:
        """Convert an error to a StoreError. If it reports damage, remember that."""
        translated = store_error(error, self.path)
        if isinstance(translated, StoreDamaged) and isinstance(error, sqlite3.Error):
            self.damage = error
        return translated

    def connect_reader(self, busy_timeout: float) -> sqlite3.Connection:
        """Return a connection that can only read. Raises sqlite3.Error."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",  # does not create the file
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=busy_timeout,
        )
        connection.row_factory = sqlite3.Row
        connection.text_factory = text_of
        connection.execute("PRAGMA query_only = 1")
        return connection

    def is_replaced(self) -> bool:
        """Return whether the path now refers to another file than the open one, or to none."""
        try:
            return self._opened is None or not os.path.samestat(self._opened, self.path.stat())
        except OSError:
            return True

    @contextlib.contextmanager
    def transaction(
        self, connection: sqlite3.Connection, *, durable: bool = True
    ) -> Iterator[None]:
        """Run the body in one transaction. Roll it back when the body raises an error.

        A transaction that is not ``durable`` survives the process, but it survives a power
        failure only after a later durable transaction. This applies to WAL mode only. Otherwise,
        all transactions are durable.

        Raises StoreUnavailable when nothing was written, StoreUncertain when it is not known
        whether the commit succeeded, and StoreDamaged when the file is damaged.
        """
        try:
            with self.locks.for_writing():
                if self.wal:
                    connection.execute(_SYNC_FULL if durable else _SYNC_NORMAL)
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                self._commit(connection)
                self._note_log()
                self._checkpoint(connection)
        except (sqlite3.Error, OSError) as error:
            raise self.error(error) from error

    def close(self, *, remove_owner: bool = True) -> None:
        """Release the locks as StoreLocks.close does. The connections must be closed already."""
        self.locks.close(remove_owner=remove_owner)

    def _open_locks(self) -> None:
        self._folder.prepare()
        self.locks.open()

    def _drop_leftover_log(self) -> None:
        """Remove the log of the previous file if the file was replaced by another one.

        SQLite identifies a log by its name only, and would apply it to the new file.
        """
        if not self.is_replaced():
            return
        log, seen = beside(self.path, "-wal"), self._log_seen
        self._log_seen = None
        with contextlib.suppress(OSError, StoreDamaged):
            if seen is not None and os.path.samestat(seen, log.stat()):
                # Another server that has opened the new file already is using the log.
                with self.locks.exclusively("its log is that of another file"):
                    log.unlink()
                    beside(self.path, "-shm").unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        # Do not open an existing file here. Closing it would release the locks that SQLite's other
        # connections in this process have on it, and another process could remove their log.
        try:
            make_private(self.path)
        except FileExistsError:
            if self.path.stat().st_size == 0:
                self._log.warning(
                    "The session store %s is an empty file, as after a crash of the system. Its "
                    "contents are lost.",
                    self.path,
                )
        connection = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._busy_timeout,
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = text_of
            # quick_check would not check the indexes.
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")
            self._set_journal_mode(connection)
            migrate(connection)
            self._opened = self.path.stat()
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_journal_mode(self, connection: sqlite3.Connection) -> None:
        if is_stock_file(connection):
            # jupyter_server's own session manager uses the file, too.
            wanted = "PRAGMA journal_mode"
        elif SUPPORTED and is_local(self.path.parent):
            wanted = "PRAGMA journal_mode = WAL"
        else:
            wanted = "PRAGMA journal_mode = DELETE"
        self.wal = connection.execute(wanted).fetchone()[0] == "wal"
        if self.wal:
            connection.execute(_SYNC_FULL)
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        else:
            # FULL would not sync the folder after removing the journal.
            connection.execute("PRAGMA synchronous = EXTRA")
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync = 1")

    def _commit(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
                raise
            if _FULL_MESSAGE in str(error):
                raise  # SQLite has already rolled back.
            raise StoreUncertain(
                f"it is not known whether the session store {self.path} saved a change: {error}"
            ) from error

    def _note_log(self) -> None:
        if self.wal and self._log_seen is None:
            with contextlib.suppress(OSError):
                self._log_seen = beside(self.path, "-wal").stat()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        self._commits += 1
        if self.wal and self._commits >= _CHECKPOINT_AFTER:
            self._commits = 0
            # A failed checkpoint loses nothing. The next one copies what this one left.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                if self.log_is_large():
                    self._truncate_log(connection)

    def _truncate_log(self, connection: sqlite3.Connection) -> None:
        # Do not wait for readers. A later checkpoint can truncate the log.
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")

    def log_is_large(self) -> bool:
        """Return whether the log has grown, as during a long read, and should be truncated."""
        try:
            return self.wal and beside(self.path, "-wal").stat().st_size > _LARGEST_LOG
        except OSError:
            return False

    def checkpoint_soon(self) -> None:
        """Run a checkpoint after the next commit."""
        self._commits = _CHECKPOINT_AFTER
