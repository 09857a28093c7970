"""The reads of the store, answered from the checked cache or from the database."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from nbsessions.errors import StoreUnavailable
from nbsessions.models import Ending, EndReason, Orphans, Owner, Session
from nbsessions.stores.base import ENDINGS_KEPT_FOR
from nbsessions.stores.cache import SessionCache, Version
from nbsessions.stores.postgres import statements
from nbsessions.stores.postgres.database import Database, TimedConnection
from nbsessions.stores.postgres.owners import OtherOwner
from nbsessions.stores.postgres.rows import (
    ending_from_row,
    intents_from_rows,
    session_from_row,
)
from nbsessions.stores.postgres.writer import Writer
from nbsessions.stores.sql.mark import Mark, StoreReverted
from nbsessions.stores.sql.reads import CachedReads
from nbsessions.stores.sql.serving import Sharer, is_unserved
from nbsessions.stores.sql.thread import ReaderThread

T = TypeVar("T")

READ_TIMEOUT = 1.5
"""Seconds that a read may take, including the wait for a connection."""


class Reads(CachedReads):
    """The reads for one scope, see CachedReads."""

    _writer: Writer

    def __init__(
        self,
        database: Database,
        writer: Writer,
        cache: SessionCache,
        thread: ReaderThread,
        *,
        namespace: str,
        owner: Owner,
        log: logging.Logger,
    ) -> None:
        super().__init__(writer, cache, owner, log=log)
        self._database = database
        self._thread = thread
        self._namespace = namespace
        self._scope = owner.scope

    async def query(self, statement: str, *values: object) -> list[Any]:
        """Return rows from the database, not from the cache. Raises StoreError."""
        return await self._run(lambda connection: connection.execute(statement, values).fetchall())

    async def check(self) -> bool:
        """Renew the heartbeat. Return False if the database lacks what this server wrote."""
        values = (self._owner.owner_id, self._writer.mark.written)
        beat = statements.BEAT
        try:
            return await self._run(
                lambda connection: connection.execute(beat, values).rowcount == 1
            )
        except StoreReverted:
            return False

    async def find_endings(self, session_ids: Collection[str]) -> dict[str, Ending]:
        """See SessionStore.find_endings."""
        values = {
            "namespace": self._namespace,
            "ids": [each for each in session_ids if _is_text(each)],
            "kept_for": ENDINGS_KEPT_FOR,
        }
        found: dict[str, Ending] = {}
        here = set()
        for row in await self._run(
            lambda connection: connection.execute(statements.SELECT_WHEREABOUTS, values).fetchall()
        ):
            session_id, scope, reason, ended = row
            if scope is None:
                ending = ending_from_row((session_id, reason, ended))
                if ending is not None:
                    found.setdefault(session_id, ending)
            elif scope == self._scope:
                here.add(session_id)
            else:
                found[session_id] = Ending(session_id=session_id, reason=EndReason.ELSEWHERE)
        return {key: ending for key, ending in found.items() if key not in here}

    async def find_orphans(self, adopted: Collection[str]) -> Orphans:
        """See SessionStore.find_orphans."""
        return await self._run(lambda connection: self._find_orphans(connection, adopted))

    async def find_unserved(self, after: timedelta) -> dict[str, set[str]]:
        """See SessionStore.find_unserved."""
        return await self._run(lambda connection: self._find_unserved(connection, after))

    # On the event loop

    async def _read_unless_current(self) -> tuple[Version, list[Session]] | None:
        return await self._run(self._read_in_thread)

    async def _run(self, function: Callable[[TimedConnection], T]) -> T:
        """Run the function in the thread, with a connection. Raises StoreError."""
        return await self._thread.run(self._with_connection, function)

    # In the thread

    def _with_connection(self, function: Callable[[TimedConnection], T]) -> T:
        deadline = time.monotonic() + READ_TIMEOUT
        try:
            with self._database.connection(READ_TIMEOUT) as connection:
                return function(connection)
        except StoreReverted:
            raise
        except StoreUnavailable:
            rest = deadline - time.monotonic()
            if rest < READ_TIMEOUT / 2:
                raise
            # The pool may have had a connection that the database had closed.
            with self._database.connection(rest) as connection:
                return function(connection)

    def _read_in_thread(self, connection: TimedConnection) -> tuple[Version, list[Session]] | None:
        mark, generation = self._writer.mark, self._writer.generation
        key = (self._namespace, self._owner.owner_id)
        row = connection.execute(statements.SELECT_VERSION, key).fetchone()
        assert row is not None
        if self._is_current(self._version(generation, mark, row), row[1]):
            return None
        rows = connection.execute(
            statements.SELECT_SNAPSHOT, (*key, self._namespace, self._scope)
        ).fetchall()
        version = self._version(generation, mark, rows[0])
        return version, [session_from_row(row[2:]) for row in rows if row[2] is not None]

    @staticmethod
    def _version(generation: int, mark: Mark, row: Sequence[Any]) -> Version:
        revision, written = row[:2]
        if not mark.is_contained_in(revision, written):
            raise StoreReverted
        return generation, revision

    def _find_orphans(self, connection: TimedConnection, adopted: Collection[str]) -> Orphans:
        key = (self._namespace, self._owner.owner_id, self._scope)
        others = [
            OtherOwner(*row)
            for row in connection.execute(statements.SELECT_OTHER_OWNERS, key).fetchall()
        ]
        dead = {each.owner_id: each.provider for each in others if each.is_dead(self._owner)}
        found: list[Sequence[Any]] = []
        intents: list[Sequence[Any]] = []
        if dead:
            owners = (self._namespace, list(dead))
            found += connection.execute(statements.SELECT_OF_SCOPES, owners).fetchall()
            intents += connection.execute(
                statements.SELECT_INTENTS_OF_OWNERS, (*owners, self._scope)
            ).fetchall()
        if adopted:
            values = (self._namespace, self._scope, list(adopted))
            statement = statements.SELECT_BY_KERNELS_ELSEWHERE
            found += connection.execute(statement, values).fetchall()
        # Both queries return the session if a dead owner had the adopted kernel.
        sessions = {session.seq: session for session in map(session_from_row, found)}
        return Orphans(
            owners=dead,
            sessions=tuple(sessions.values()),
            intents=tuple(intents_from_rows(intents)),
        )

    def _find_unserved(self, connection: TimedConnection, after: timedelta) -> dict[str, set[str]]:
        values = {
            "scope": self._scope,
            "owner": self._owner.owner_id,
            "namespace": self._namespace,
        }
        # The kernels first: a namespace that is served only now is in the second answer.
        kernels = connection.execute(statements.SELECT_SHARED_KERNELS_ELSEWHERE, values).fetchall()
        owners = connection.execute(statements.SELECT_SHARERS_ELSEWHERE, values).fetchall()
        sharers: defaultdict[str, list[Sharer]] = defaultdict(list)
        for row in owners:
            sharers[row[-1]].append(OtherOwner.sharer(row, self._owner))
        found: defaultdict[str, set[str]] = defaultdict(set)
        for namespace, kernel_id in kernels:
            if is_unserved(sharers[namespace], after):
                found[namespace].add(kernel_id)
        return found


def _is_text(value: str) -> bool:
    """Return whether the database can store the text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value
