"""The SQLite file itself: its permissions, locks, journal mode, and what to do about damage."""

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
from nbsessions.stores.sqlite.locks import StoreLocks
from nbsessions.stores.sqlite.repair import Repair, beside, make_private
from nbsessions.stores.sqlite.rows import RowReader, text_of
from nbsessions.stores.sqlite.schema import migrate
from nbsessions.stores.sqlite.stock import is_stock_file

_CHECKPOINT_AFTER = 100
"""Commits between two checkpoints. Syncing a log that is used again is cheaper than growing it."""
_LARGEST_LOG = 8_000_000
"""Bytes that a log may keep when all of it is in the file."""

_SYNC_FULL = "PRAGMA synchronous = FULL"
_SYNC_NORMAL = "PRAGMA synchronous = NORMAL"
_FULL_MESSAGE = "disk is full"


class Database:
    """One file, opened by one server. All methods block; call them off the event loop.

    Commits and checkpoints are made one at a time, under a lock: SQLite before 3.51.3 can
    corrupt a WAL file when one connection commits while another checkpoints
    (https://sqlite.org/wal.html#walresetbug), and such libraries will be around for years.
    """

    def __init__(
        self, path: Path, *, private_folder: bool, busy_timeout: float, log: logging.Logger
    ) -> None:
        self.path = path
        self.wal = False
        self._private_folder = private_folder
        self._busy_timeout = busy_timeout
        self._log = log
        self._repair = Repair(path, log)
        self.damage: sqlite3.Error | None = None
        """What SQLite said of the file that is open, when that was broken. Checks may miss it."""
        self.locks = StoreLocks(path, timeout=busy_timeout)
        self.rows = RowReader(path, log)
        self._opened: os.stat_result | None = None
        self._log_seen: os.stat_result | None = None
        self._commits = 0
        self.close_readers: list[Callable[[], None]] = []
        """What closes each connection that reads."""
        self.lost = False
        """Whether what we know is still to be written to the file: until then nobody reads it."""
        self.generation = 0
        """Counts how often the file was opened: readers follow it."""

    def open(self) -> sqlite3.Connection:
        """Open the file for writing, make or mend it if need be. Raises StoreError."""
        try:
            self._take_part()
            # Alone: SQLite does not wait for others when the journal mode changes.
            with self.locks.alone():
                self._drop_leftover_log()
                connection = self._connect_or_mend()
        except (sqlite3.Error, OSError) as error:
            raise store_error(error, self.path) from error
        self.generation += 1
        return connection

    def own(self, owner_id: str) -> None:
        """Hold the lock that shows that the owner lives. Raises StoreError."""
        try:
            self.locks.own(owner_id)
        except OSError as error:
            raise store_error(error, self.path) from error

    def keep_locks(self) -> None:
        """Take the locks again whose files were replaced. Raises StoreError."""
        if not self.locks.are_current():
            try:
                self._take_part()
            except OSError as error:
                raise store_error(error, self.path) from error

    def is_in_place(self) -> bool:
        """Return whether the file and its locks are those that others find."""
        return not self.is_replaced() and self.locks.are_current()

    def shut_out_readers(self) -> None:
        """Close all readers, and keep them out until ``lost`` is taken back.

        What is mapped by a connection to a file that went away is truncated by the next one.
        """
        self.lost = True
        for close in self.close_readers:
            close()

    def _connect_or_mend(self) -> sqlite3.Connection:
        if self.is_replaced():
            self.damage = None  # It was another file's.
        problem: object = self.damage
        if self._repair.is_under_way:
            problem = "its repair was cut short"
        elif problem is None:
            try:
                return self._connect()
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                problem = error
        with self.locks.nobody_else(problem):
            self.shut_out_readers()
            if not self._repair.is_under_way:
                self._repair.start()
            self._repair.finish(problem)
            self.damage = None
            return self._connect()

    def error(self, error: sqlite3.Error | OSError) -> StoreError:
        """Translate an error, and remember that the file is broken if it says so."""
        translated = store_error(error, self.path)
        if isinstance(translated, StoreDamaged) and isinstance(error, sqlite3.Error):
            self.damage = error
        return translated

    def connect_reader(self, busy_timeout: float) -> sqlite3.Connection:
        """Return a connection that can only read. Raises sqlite3.Error."""
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",  # never makes the file
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
        """Return whether the path no longer leads to the file that was opened."""
        try:
            return self._opened is None or not os.path.samestat(self._opened, self.path.stat())
        except OSError:
            return True

    @contextlib.contextmanager
    def transaction(
        self, connection: sqlite3.Connection, *, durable: bool = True
    ) -> Iterator[None]:
        """Run the body in one transaction; rolled back when it raises.

        One that is not ``durable`` survives the process, but a power cut only once a later
        one that is has been committed. (In a WAL file; others know no such thing.)

        Raises StoreUnavailable when nothing was written, StoreUncertain when the commit was
        cut short, StoreDamaged for a broken file.
        """
        try:
            with self.locks.alone():
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
        """Release the locks; see StoreLocks.close. Close the connections first."""
        self.locks.close(remove_owner=remove_owner)

    def _take_part(self) -> None:
        if self._private_folder:
            folder = self.path.parent
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o777 != 0o700:
                folder.chmod(0o700)
        self.locks.take_part()

    def _drop_leftover_log(self) -> None:
        """Remove the log of the file that was here before, when another one took its place.

        SQLite knows a log by its name only, and would apply it to the new file.
        """
        if not self.is_replaced():
            return
        log, seen = beside(self.path, "-wal"), self._log_seen
        self._log_seen = None
        with contextlib.suppress(OSError, StoreDamaged):
            if seen is not None and os.path.samestat(seen, log.stat()):
                # Who has opened the new file already goes on using the log.
                with self.locks.nobody_else("its log is that of another file"):
                    log.unlink()
                    beside(self.path, "-shm").unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        # Not opened if it is there: closing it would release the locks of our other connections,
        # and another process could then remove the log under them.
        try:
            make_private(self.path)
        except FileExistsError:
            if self.path.stat().st_size == 0:
                self._log.warning(
                    "The session store %s is empty, as after a crash of the system: what was in "
                    "it is lost",
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
            # Not quick_check, which does not look into indexes.
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
            wanted = "PRAGMA journal_mode"  # A stock server uses it too: it stays as it is.
        elif SUPPORTED and is_local(self.path.parent):
            wanted = "PRAGMA journal_mode = WAL"
        else:
            wanted = "PRAGMA journal_mode = DELETE"
        self.wal = connection.execute(wanted).fetchone()[0] == "wal"
        if self.wal:
            connection.execute(_SYNC_FULL)
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        else:
            # FULL would not sync the folder after the journal is removed.
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
                raise  # SQLite has rolled it back by itself.
            raise StoreUncertain(
                f"the session store {self.path} may or may not have kept a change: {error}"
            ) from error

    def _note_log(self) -> None:
        if self.wal and self._log_seen is None:
            with contextlib.suppress(OSError):
                self._log_seen = beside(self.path, "-wal").stat()

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        self._commits += 1
        if self.wal and self._commits >= _CHECKPOINT_AFTER:
            self._commits = 0
            # What was committed stays so when this fails; it is tried again in time.
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                if self.log_is_large():
                    self._truncate_log(connection)

    def _truncate_log(self, connection: sqlite3.Connection) -> None:
        # Without waiting for those who read still: the next time will do.
        connection.execute("PRAGMA busy_timeout = 0")
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")

    def log_is_large(self) -> bool:
        """Return whether the log grew while somebody read for long, and is to be truncated."""
        try:
            return self.wal and beside(self.path, "-wal").stat().st_size > _LARGEST_LOG
        except OSError:
            return False

    def checkpoint_soon(self) -> None:
        """Have the next commit followed by a checkpoint."""
        self._commits = _CHECKPOINT_AFTER
