"""The thread that writes. It commits all queued operations in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nbsessions.errors import InvalidRequest, SessionError, StoreUnavailable
from nbsessions.models import Intent, Owner, Session
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.mark import Mark
from nbsessions.stores.sqlite.statements import SELECT_VERSION
from nbsessions.stores.sqlite.transaction import SQLiteTransaction

T = TypeVar("T")
Operation = Callable[[SQLiteTransaction], T]

_CLOSE_TIMEOUT = 10.0


@dataclass(eq=False)
class _Job:
    operation: Operation[Any]
    future: asyncio.Future[Any]
    durable: bool
    outcome: Any = None
    error: BaseException | None = None


class _Reverted(StoreUnavailable):
    """The file was restored to an earlier state, or the owner's row was removed."""

    def __init__(self) -> None:
        super().__init__("the session store was restored to an earlier state. Try again")


@dataclass(eq=False)
class _Committed:
    """The changes of one transaction, to be applied to the cache and the writer's intents."""

    generation: int
    """How many times the file had been opened."""
    before: int
    """The revision before the transaction."""
    after: int
    """The revision after the transaction."""
    changed: dict[str, Session | None] = field(default_factory=dict)
    intents: dict[str, Intent | None] = field(default_factory=dict)


class Writer:
    """Owns the connection that writes.

    Call ``submit`` on the event loop. ``close`` may be called from any thread.
    """

    def __init__(
        self,
        database: Database,
        connection: sqlite3.Connection,
        cache: SessionCache,
        *,
        namespace: str,
        owner: Owner,
        log: logging.Logger,
    ) -> None:
        """Start the thread.

        Committed changes are applied to ``cache`` on the event loop, before ``submit`` returns.
        """
        self.mark = Mark()
        """The last write that is certainly committed. Safe to read from any thread."""
        self._intents: dict[str, Intent] = {}
        self._database = database
        self._connection: sqlite3.Connection | None = connection
        self._namespace = namespace
        self._owner = owner
        self._cache = cache
        self._log = log
        self._undelivered: deque[_Committed] = deque()
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._last: Operation[None] | None = None
        self._finished = False
        # A daemon thread, so that a program that embeds the server and forgets to close the store
        # can still exit.
        self._thread = threading.Thread(target=self._run, name="nbsessions-writer", daemon=True)
        self._thread.start()

    async def submit(self, operation: Operation[T], *, durable: bool = True) -> T:
        """Run the operation in the next transaction and return its result after the commit.

        ``durable`` has the same meaning as for Database.transaction. A transaction is durable if
        any of its operations is.

        If an operation raises a SessionError, only this operation is rolled back. Cancelling the
        caller does not remove the operation from the queue.
        """
        if self._closed:
            raise StoreUnavailable("the session store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Job(operation, future, durable))
        return await future

    async def heartbeat(self) -> None:
        """Renew the owner's heartbeat.

        As before every write, the file is first repaired if it is damaged, and brought up to date
        if it was replaced.
        """
        await self.submit(lambda transaction: transaction.register(self._owner), durable=False)

    def close(self, last: Operation[None]) -> bool:
        """Commit the queued operations and then ``last``, and close the file. Idempotent.

        Returns whether ``last`` was committed.
        """
        if not self._closed:
            self._closed = True
            self._last = last
            self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT)
        return self._finished

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            closing = None in batch
            jobs = [job for job in batch if job is not None]
            if jobs:
                self._work(jobs)
        self._finish()

    def _work(self, jobs: Sequence[_Job]) -> None:
        committed = None
        try:
            committed = self._commit(jobs)
        except Exception as error:
            # The error of a single operation is stored in its job. This error affects all jobs.
            for job in jobs:
                job.error = error
            self._disconnect()
        # When the server is stopping, the event loop may be closed already.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver, jobs, committed)

    def _commit(self, jobs: Sequence[_Job]) -> _Committed:
        try:
            return self._commit_once(jobs)
        except _Reverted:
            # Opening the file again brings it up to date.
            self._disconnect()
            return self._commit_once(jobs)

    def _commit_once(self, jobs: Sequence[_Job]) -> _Committed:
        connection = self._connect()
        durable = any(job.durable for job in jobs)
        with self._database.transaction(connection, durable=durable):
            transaction = self._transaction(connection)
            before = transaction.raise_revision()
            known = before >= self.mark.revision
            if not known or not transaction.record_write(before + 1, self.mark.written):
                raise _Reverted
            committed = _Committed(self._database.generation, before, before + 1)
            for job in jobs:
                self._perform(connection, job, committed)
        self._remember(committed)
        self._undelivered.append(committed)
        return committed

    def _remember(self, committed: _Committed) -> None:
        self.mark = Mark(committed.after, committed.after)
        for token, intent in committed.intents.items():
            self._intents.pop(token, None)
            if intent is not None:
                self._intents[token] = intent

    def _transaction(self, connection: sqlite3.Connection) -> SQLiteTransaction:
        return SQLiteTransaction(
            connection, self._namespace, self._owner.owner_id, self._database.rows
        )

    def _perform(self, connection: sqlite3.Connection, job: _Job, committed: _Committed) -> None:
        transaction = self._transaction(connection)
        connection.execute("SAVEPOINT operation")
        try:
            job.outcome = job.operation(transaction)
        except (SessionError, UnicodeEncodeError) as error:
            unusable = InvalidRequest("text", "cannot be stored because it is not valid Unicode")
            job.error = error if isinstance(error, SessionError) else unusable
            connection.execute("ROLLBACK TO operation")
        else:
            committed.changed.update(transaction.tables.changed)
            committed.intents.update(transaction.tables.intents)
        connection.execute("RELEASE operation")

    def _connect(self) -> sqlite3.Connection:
        """Return the connection, reopened after an error or if the file was replaced.

        Afterwards the file has all sessions and intents of this server.
        """
        if self._connection is not None:
            if self._database.is_replaced() or self._database.damage is not None:
                self._disconnect()
            else:
                self._database.renew_locks()
        if self._connection is None:
            if self._database.is_replaced():
                self._database.shut_out_readers()
            connection = self._database.open()
            try:
                with self._database.transaction(connection):
                    mark = self._bring_up_to_date(connection)
            except BaseException:
                connection.close()
                raise
            self.mark = mark
            self._database.needs_restore = False
            self._connection = connection
        return self._connection

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> Mark:
        found = connection.execute(
            SELECT_VERSION, (self._namespace, self._owner.owner_id)
        ).fetchone()
        if self.mark.is_contained_in(*found) and not self._database.needs_restore:
            return self.mark
        revision, written = found
        forgotten = (
            written is None and revision >= self.mark.revision and not self._database.needs_restore
        )
        self._log.warning(
            "The session store %s %s. This server writes its sessions to it again.",
            self._database.path,
            "no longer has a record of this server"
            if forgotten
            else "was replaced or restored to an earlier state",
        )
        transaction = self._transaction(connection)
        transaction.raise_revision()
        if forgotten:
            # The server that removed the record has also undone this server's starts and stops.
            self._intents.clear()
        transaction.restore(
            self._owner, self._known_sessions(), self._intents.values(), self.mark.revision
        )
        revision = transaction.raise_revision() + 1
        transaction.record_write(revision, 0)
        return Mark(revision, revision)

    def _known_sessions(self) -> list[Session]:
        """Return this owner's sessions, oldest first."""
        # Copy this before reading the cache. A commit that the event loop delivers in between is
        # then in both, so none is missed.
        undelivered = list(self._undelivered)
        sessions = {session.session_id: session for session in self._cache.list_sessions()}
        for committed in undelivered:
            for session_id, session in committed.changed.items():
                if session is None:
                    sessions.pop(session_id, None)
                else:
                    sessions[session_id] = session
        return sorted(sessions.values(), key=lambda session: session.seq)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _deliver(self, jobs: Sequence[_Job], committed: _Committed | None) -> None:
        if committed is not None:
            self._cache.apply(
                committed.generation, committed.before, committed.after, committed.changed
            )
            self._undelivered.popleft()
        for job in jobs:
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.outcome)
            else:
                job.future.set_exception(job.error)
                # Mark the exception as retrieved, so that asyncio does not log it if all callers
                # were cancelled.
                job.future.exception()

    def _finish(self) -> None:
        last = self._last
        try:
            if last is not None:
                connection = self._connect()
                with self._database.transaction(connection):
                    transaction = self._transaction(connection)
                    transaction.raise_revision()
                    last(transaction)
                self._finished = True
        except Exception as error:
            # The owner's lock is released anyway, so the next server sees that this owner is dead.
            self._log.warning(
                "This server could not be marked as stopped in the session store: %s", error
            )
        self._disconnect()
