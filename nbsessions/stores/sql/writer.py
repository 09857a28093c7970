"""The thread that writes. It commits what is queued in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

from nbsessions.errors import InvalidRequest, SessionError, StoreUnavailable
from nbsessions.models import Intent, Owner, Session
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sql.mark import Mark
from nbsessions.stores.sql.transaction import SQLTransaction

T = TypeVar("T")
Tx = TypeVar("Tx", bound=SQLTransaction)

MOST_AT_ONCE = 100
"""Operations in a transaction. Databases limit how long a transaction may take."""

_DELIVERY_TIMEOUT = 1.0
"""Seconds after which a committed write is read from the store."""

_LONGEST_REST = 0.02
"""Seconds after which the outcome of an operation that is not urgent is delivered."""

_CLOSE_TIMEOUT = 10.0


class Job(Struct, eq=False):
    """An operation in the queue, and its outcome."""

    operation: Callable[[Any], Any]
    future: asyncio.Future[Any]
    durable: bool
    urgent: bool
    outcome: Any = None
    error: BaseException | None = None


class Committed(Struct, eq=False):
    """The changes of one transaction, to be applied to the cache and the writer's intents."""

    generation: int
    """See ``Version``."""
    before: int
    """The revision before the transaction."""
    after: int
    """The revision after the transaction."""
    written: int = 0
    """The number of the write, see ``Mark``."""
    changed: dict[str, Session | None] = field(default_factory=dict)
    intents: dict[str, Intent | None] = field(default_factory=dict)


class NothingWritten(Exception):
    """All operations of a transaction have failed, so it is rolled back."""


class BatchWriter(ABC, Generic[Tx]):
    """Owns the thread that writes.

    Call ``submit`` on the event loop. ``close`` may be called from any thread. The methods whose
    names begin with an underscore run in the thread, unless documented otherwise.
    """

    def __init__(self, cache: SessionCache, owner: Owner, *, log: logging.Logger) -> None:
        """Committed changes are applied to ``cache`` on the event loop, before ``submit`` returns.

        ``begin`` starts the thread.
        """
        self.mark = Mark()
        """The last write that is certainly committed. Safe to read from any thread."""
        self._owner = owner
        self._cache = cache
        self._log = log
        self._intents: dict[str, Intent] = {}
        self._undelivered: deque[Committed] = deque()
        self._done: deque[tuple[Sequence[Job], Committed | None]] = deque()
        """What the thread has carried out, and the event loop has not delivered."""
        self._resting: list[Job] = []
        """The operations that are not urgent. Some of them may be done already."""
        self._batches_begun = 0
        self._batches_delivered = 0
        self._delivery = asyncio.Event()
        self._delivered = 0
        """The number of the last write that the event loop knows of, see ``Mark``."""
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._last: Callable[[Tx], None] | None = None
        self._finished = False
        # A daemon thread, so that a program that embeds the server and forgets to close the store
        # can still exit.
        self._thread = threading.Thread(target=self._run, name="nbsessions-writer", daemon=True)

    # Used from outside the thread

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def submit(
        self, operation: Callable[[Tx], T], *, durable: bool = True, urgent: bool = True
    ) -> T:
        """Run the operation in the next transaction and return its result after the commit.

        A transaction that is not ``durable`` survives the process, but it may survive a power
        failure only after a later durable transaction. It is durable if any of its operations is.

        The thread does not wake the event loop for an operation that is not ``urgent``. Call
        ``hurry`` when its result is needed. Otherwise, it comes a little later.

        If an operation raises a SessionError, only this operation is rolled back. Cancelling the
        caller does not remove the operation from the queue.
        """
        if self._closed:
            raise StoreUnavailable("the session store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        job = Job(operation, future, durable, urgent)
        if not urgent:
            self._resting.append(job)
            self._loop.call_later(_LONGEST_REST, self.hurry)
        self._queue.put(job)
        return await future

    def hurry(self) -> None:
        """Deliver what is done now, and the rest as soon as it is done."""
        while self._resting:
            # Before the look at what is done. The thread looks at this after it has noted what it
            # has done, so one of the two always delivers.
            self._resting.pop().urgent = True
        self._deliver_done()

    async def heartbeat(self) -> None:
        """Renew the owner's heartbeat, and bring the store up to date if it was restored."""
        await self.submit(lambda transaction: transaction.register(self._owner), durable=False)

    def is_undelivered(self, written: int) -> bool:
        """Return whether the owner's write with this number has not reached the cache.

        Safe to call from any thread.
        """
        return written > self._delivered

    async def wait_for_delivery(self, written: int) -> bool:
        """Wait until the owner's write with this number, which is committed, reaches the cache.

        Returns False if it does not: the thread did not learn that it was committed, or has to
        find that out first.
        """
        self.hurry()
        last = self._batches_begun
        while self._delivered < written and self._batches_delivered < last:
            self._delivery.clear()
            try:
                await asyncio.wait_for(self._delivery.wait(), _DELIVERY_TIMEOUT)
            except asyncio.TimeoutError:
                break
        return self._delivered >= written

    def close(self, last: Callable[[Tx], None]) -> bool:
        """Commit the queued operations and then ``last``, and disconnect. Idempotent.

        Returns whether ``last`` was committed.
        """
        if not self._closed:
            self._closed = True
            self._last = last
            self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT)
        return self._finished

    # What each store does in its own way

    @abstractmethod
    def _commit(self, jobs: Sequence[Job]) -> Committed | None:
        """Carry out the jobs in one transaction. Return None if it has written nothing.

        Calls ``_perform_all``, and ``_remember`` after the commit.
        """

    @abstractmethod
    def _commit_last(self, last: Callable[[Tx], None]) -> None:
        """Carry out the last operation."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection, if there is one. The next transaction opens another."""

    # What they have in common

    def _perform_all(self, transaction: Tx, jobs: Sequence[Job], committed: Committed) -> None:
        """Carry out the jobs. Raises NothingWritten if all of them fail.

        If a job raises a SessionError, only its own changes are rolled back.
        """
        transaction.is_for_one = len(jobs) == 1
        for job in jobs:
            self._perform(transaction, job, committed)
        if all(job.error for job in jobs):
            raise NothingWritten

    def _perform(self, transaction: Tx, job: Job, committed: Committed) -> None:
        transaction.tables.changed, transaction.tables.intents = {}, {}
        try:
            with transaction.savepoint():
                job.outcome = job.operation(transaction)
        except (SessionError, UnicodeEncodeError) as error:
            unusable = InvalidRequest("text", "cannot be stored because it is not valid Unicode")
            job.error = error if isinstance(error, SessionError) else unusable
        else:
            committed.changed.update(transaction.tables.changed)
            committed.intents.update(transaction.tables.intents)

    def _remember(self, committed: Committed, mark: Mark) -> None:
        self.mark = mark
        committed.written = mark.written
        for token, intent in committed.intents.items():
            self._intents.pop(token, None)
            if intent is not None:
                self._intents[token] = intent
        self._undelivered.append(committed)

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

    # The thread

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < MOST_AT_ONCE:
                    batch.append(self._queue.get_nowait())
            closing = None in batch
            jobs = [job for job in batch if job is not None]
            if jobs:
                self._work(jobs)
        self._wake()
        self._finish()

    def _work(self, jobs: Sequence[Job]) -> None:
        committed = None
        self._batches_begun += 1
        try:
            committed = self._commit(jobs)
        except Exception as error:
            # The error of a single operation is stored in its job. This error affects all jobs.
            for job in jobs:
                job.error = error
            self._disconnect()
        self._done.append((jobs, committed))
        if any(job.urgent for job in jobs):
            self._wake()

    def _wake(self) -> None:
        # When the server is stopping, the event loop may be closed already.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._deliver_done)

    def _deliver_done(self) -> None:
        """Deliver all that is done. Runs on the event loop."""
        while self._done:
            self._deliver(*self._done.popleft())

    def _deliver(self, jobs: Sequence[Job], committed: Committed | None) -> None:
        """Apply the changes to the cache, and answer the callers."""
        if committed is not None:
            self._cache.apply(
                committed.generation, committed.before, committed.after, committed.changed
            )
            self._undelivered.popleft()
            self._delivered = committed.written
        self._batches_delivered += 1
        self._delivery.set()
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
                self._commit_last(last)
                self._finished = True
        except Exception as error:
            # The owner's lock is released anyway, so the next server sees that this owner is dead.
            self._log.warning(
                "This server could not be marked as stopped in the session store: %s", error
            )
        self._disconnect()
