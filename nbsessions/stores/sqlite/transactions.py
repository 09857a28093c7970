"""What each write does to the tables, within a transaction that the writer has begun."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from nbsessions.errors import (
    InvalidRequest,
    KernelConflict,
    SessionNotFound,
    StartInProgress,
    StartLost,
)
from nbsessions.models import (
    ABANDONED_AFTER,
    UNSET,
    Changes,
    Intent,
    Orphans,
    Owner,
    Release,
    Session,
    Verb,
    utcnow,
)
from nbsessions.stores.base import ENDED_KEPT_FOR, START_LEASE
from nbsessions.stores.sqlite.rows import RowReader, timestamp
from nbsessions.stores.sqlite.stock import STOCK_SCOPE, is_stock_file, read_stock_sessions

_SESSION_COLUMNS = (
    "seq, session_id, scope, provider, path, name, type, kernel_id, kernel_name, "
    "created, last_activity"
)
SELECT_SESSIONS = f"""SELECT {_SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? ORDER BY seq"""
_SELECT_BY_ID = f"""SELECT {_SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND session_id = ?"""
_SELECT_BY_DOCUMENT = f"""SELECT {_SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND document = ? ORDER BY seq"""
_SELECT_WITHIN = f"""SELECT {_SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ?
    AND (document = ? OR (document > ? AND document < ?)) ORDER BY seq"""
SELECT_ELSEWHERE = f"""SELECT {_SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope <> ? AND kernel_id = ?"""
_SELECT_BY_KERNEL = f"""SELECT {_SESSION_COLUMNS} FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND kernel_id = ?"""
_INSERT_SESSION = """INSERT INTO nbsessions_session
    (namespace, session_id, scope, provider, path, document, name, type, kernel_id,
    kernel_name, created, last_activity)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_UPDATE_SESSION = """UPDATE nbsessions_session SET provider = ?, path = ?, document = ?,
    name = ?, type = ?, kernel_id = ?, kernel_name = ?, last_activity = ? WHERE seq = ?"""
_DELETE_SESSION = "DELETE FROM nbsessions_session WHERE seq = ?"
_DELETE_BY_ID = "DELETE FROM nbsessions_session WHERE namespace = ? AND session_id = ?"
_INSERT_INTENT = """INSERT OR IGNORE INTO nbsessions_intent
    (token, namespace, scope, document, verb, kernel_id, owner, lease_until)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_INTENT_COLUMNS = "token, verb, scope, document, kernel_id, lease_until"
SELECT_INTENTS = f"""SELECT {_INTENT_COLUMNS} FROM nbsessions_intent
    WHERE namespace = ? AND scope = ? ORDER BY rowid"""
SELECT_INTENT = f"SELECT {_INTENT_COLUMNS} FROM nbsessions_intent WHERE token = ?"
_DELETE_INTENT = "DELETE FROM nbsessions_intent WHERE token = ?"
_BARE = """NOT EXISTS (SELECT 1 FROM nbsessions_session AS session
    WHERE session.namespace = nbsessions_owner.namespace
    AND session.scope = nbsessions_owner.owner)
    AND NOT EXISTS (SELECT 1 FROM nbsessions_intent AS intent
    WHERE intent.namespace = nbsessions_owner.namespace
    AND intent.owner = nbsessions_owner.owner)"""
_OWNER_COLUMNS = "owner, host, boot, heartbeat, stopped, provider"
SELECT_OTHER_OWNERS = f"""SELECT {_OWNER_COLUMNS} FROM nbsessions_owner
    WHERE namespace = ? AND owner <> ?"""
_SELECT_BARE_OWNERS = f"""SELECT {_OWNER_COLUMNS} FROM nbsessions_owner
    WHERE namespace <> ? AND {_BARE}"""
_SELECT_ALL_OWNERS = f"SELECT {_OWNER_COLUMNS} FROM nbsessions_owner"
_DELETE_UNOWNED_SESSIONS = """DELETE FROM nbsessions_session WHERE last_activity < ?
    AND scope NOT IN (SELECT owner FROM nbsessions_owner)"""
_DELETE_UNOWNED_INTENTS = """DELETE FROM nbsessions_intent WHERE lease_until < ?
    AND owner NOT IN (SELECT owner FROM nbsessions_owner)"""
_DELETE_EMPTY_NAMESPACES = """DELETE FROM nbsessions_namespace WHERE namespace <> ?
    AND namespace NOT IN (SELECT namespace FROM nbsessions_owner)
    AND namespace NOT IN (SELECT namespace FROM nbsessions_session)
    AND namespace NOT IN (SELECT namespace FROM nbsessions_intent)"""
_DELETE_BARE_OWNER = f"DELETE FROM nbsessions_owner WHERE owner = ? AND {_BARE}"
COUNT_HOLDERS = """SELECT COUNT(*) FROM nbsessions_session
    WHERE namespace = ? AND scope = ? AND kernel_id = ?"""
SELECT_VERSION = """SELECT
    COALESCE((SELECT revision FROM nbsessions_namespace WHERE namespace = ?), 0) AS revision,
    (SELECT written FROM nbsessions_owner WHERE owner = ?) AS written"""
SELECT_REVISION = "SELECT revision FROM nbsessions_namespace WHERE namespace = ?"


class Transaction:
    """The writes of the SessionStore port, for one namespace and scope.

    ``changed`` collects what became of each session (None: removed), for the store's cache,
    and ``intents`` what became of each intent, by token.
    """

    def __init__(
        self, connection: sqlite3.Connection, namespace: str, scope: str, rows: RowReader
    ) -> None:
        self._connection = connection
        self._rows = rows
        self._namespace = namespace
        self._scope = scope
        self.changed: dict[str, Session | None] = {}
        self.intents: dict[str, Intent | None] = {}

    # Owners

    def register(self, owner: Owner) -> None:
        """Enter the owner, live from now on; or say again that it is alive."""
        self._connection.execute(
            """INSERT INTO nbsessions_owner
            (owner, namespace, host, boot, pid, heartbeat, provider) VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (owner) DO UPDATE SET heartbeat = excluded.heartbeat, stopped = NULL""",
            (
                owner.owner_id,
                self._namespace,
                owner.host,
                owner.boot_id,
                owner.pid,
                timestamp(utcnow()),
                owner.provider,
            ),
        )

    def raise_revision(self) -> int:
        """Raise the namespace's revision, which takes the write lock, and return the old one."""
        updated = self._connection.execute(
            "UPDATE nbsessions_namespace SET revision = revision + 1 WHERE namespace = ?",
            (self._namespace,),
        )
        if updated.rowcount == 0:
            self._connection.execute(
                "INSERT INTO nbsessions_namespace (namespace, revision) VALUES (?, 1)",
                (self._namespace,),
            )
            return 0
        row = self._connection.execute(SELECT_REVISION, (self._namespace,)).fetchone()
        revision: int = row["revision"]
        return revision - 1

    def sign(self, revision: int, before: int) -> bool:
        """Note that this owner made the write of this revision, and none after ``before``.

        Return False when the file does not know the owner any more, or not its last writes.
        """
        signed = self._connection.execute(
            "UPDATE nbsessions_owner SET written = ? WHERE owner = ? AND written >= ?",
            (revision, self._scope, before),
        )
        return signed.rowcount == 1

    def sign_off(self, held: Collection[str]) -> None:
        """Remove what is about kernels that ended with the server, and record a clean stop."""
        key = (self._namespace, self._scope)
        sessions = self._rows.sessions(self._connection.execute(SELECT_SESSIONS, key))
        self._remove(session for session in sessions if session.kernel_id not in held)
        for intent in self._rows.intents(self._connection.execute(SELECT_INTENTS, key)):
            if intent.kernel_id not in held:
                self._connection.execute(_DELETE_INTENT, (intent.token,))
        self._connection.execute(
            "UPDATE nbsessions_owner SET stopped = ? WHERE owner = ?",
            (timestamp(utcnow()), self._scope),
        )
        self._connection.execute(_DELETE_BARE_OWNER, (self._scope,))

    def forget_owners(
        self, is_dead: Callable[[sqlite3.Row], bool], is_abandoned: Callable[[sqlite3.Row], bool]
    ) -> list[str]:
        """Remove dead owners of other namespaces that left nothing, and abandoned ones of all
        namespaces with what they left. Return the ids of those that were removed.
        """
        execute = self._connection.execute
        key = (self._namespace,)
        forgotten = [row["owner"] for row in execute(_SELECT_BARE_OWNERS, key) if is_dead(row)]
        abandoned = [row["owner"] for row in execute(_SELECT_ALL_OWNERS) if is_abandoned(row)]
        for owner_id in abandoned:
            execute("DELETE FROM nbsessions_session WHERE scope = ?", (owner_id,))
            execute("DELETE FROM nbsessions_intent WHERE owner = ?", (owner_id,))
        for owner_id in (*forgotten, *abandoned):
            execute(_DELETE_BARE_OWNER, (owner_id,))
        before = timestamp(utcnow() - ABANDONED_AFTER)
        execute(_DELETE_UNOWNED_SESSIONS, (before,))
        execute(_DELETE_UNOWNED_INTENTS, (before,))
        execute(_DELETE_EMPTY_NAMESPACES, key)
        return [*forgotten, *abandoned]

    def restore(
        self,
        owner: Owner,
        sessions: Iterable[Session],
        intents: Iterable[Intent],
        revision: int,
    ) -> None:
        """Write what this owner alone knows over what the file has of it.

        The revision goes on from ``revision``, the last one that is known, so that nobody
        takes what is read from now on for something older.
        """
        self._connection.execute(
            "UPDATE nbsessions_namespace SET revision = MAX(revision, ? + 1) WHERE namespace = ?",
            (revision, self._namespace),
        )
        self.register(owner)
        self._connection.execute(
            "DELETE FROM nbsessions_session WHERE namespace = ? AND scope = ?",
            (self._namespace, self._scope),
        )
        self._connection.execute("DELETE FROM nbsessions_intent WHERE owner = ?", (self._scope,))
        for session in sessions:
            # An older copy of the file may have it as the session of an earlier owner.
            self._connection.execute(_DELETE_BY_ID, (self._namespace, session.session_id))
            self._insert(session)
        for intent in intents:
            self._insert_intent(intent)

    def import_stock(self) -> None:
        """Take over the sessions of a stock table, once in the life of the file."""
        if not is_stock_file(self._connection):
            return
        first = self._connection.execute(
            "INSERT OR IGNORE INTO nbsessions_meta (key, value) VALUES ('stock_imported', 1)"
        )
        if first.rowcount == 0:
            return
        now = timestamp(utcnow())
        self._connection.execute(
            """INSERT INTO nbsessions_owner
            (owner, namespace, host, boot, pid, heartbeat, stopped)
            VALUES (?, ?, '', '', 0, ?, ?)""",
            (STOCK_SCOPE, self._namespace, now, now),
        )
        for session in read_stock_sessions(self._connection):
            self._insert(session)

    # Starts

    def acquire(self, intent: Intent) -> Session | None:
        existing = self._find_by_document(intent.document)
        if existing is not None:
            return existing
        if intent.kernel_id is not None:
            self._claim(intent.kernel_id)
        self._connection.execute(
            """UPDATE nbsessions_intent SET verb = 'lost' WHERE namespace = ? AND scope = ?
            AND document = ? AND verb = 'start' AND lease_until < ?""",
            (self._namespace, self._scope, intent.document, timestamp(utcnow())),
        )
        if not self._insert_intent(intent):
            raise StartInProgress(intent.document)
        return None

    def commit(self, token: str, session: Session) -> Session | StartLost:
        started = self._drop(token, Verb.START)
        winner = self._find_by_document(session.document)
        if winner is not None or not started:
            self._note_stop(token, session.kernel_id)
            return StartLost(winner)
        return self._insert(session)

    def drop_start(self, token: str) -> None:
        self._drop(token, Verb.START)
        self._drop(token, Verb.LOST)

    # Sessions

    def attach(self, session: Session) -> Session:
        return self._find_by_document(session.document) or self.insert(session)

    def insert(self, session: Session) -> Session:
        self._refuse_unsettled(session.kernel_id)
        return self._insert(session)

    def update(
        self,
        session_id: str,
        changes: Changes,
        *,
        start_token: str | None,
        stop_token: str,
        force: bool,
    ) -> Release | StartLost:
        before = self._get(session_id)
        kernel = changes.kernel
        if start_token is not None and not self._drop(start_token, Verb.START):
            assert kernel is not UNSET
            self._note_stop(start_token, kernel.kernel_id)
            return StartLost(None)
        if kernel is not UNSET and start_token is None:
            self._refuse_unsettled(kernel.kernel_id)
        session = self._change(changes.applied_to(before))
        released = None
        if session.kernel_id != before.kernel_id:
            released = self._release(before.kernel_id, stop_token, force=force)
        return Release(session=session, kernel_id=released)

    def rename_document(self, old: str, new: str) -> list[Session]:
        # All that begins with "old/" lies between it and "old0", the next character.
        rows = self._connection.execute(
            _SELECT_WITHIN, (self._namespace, self._scope, old, f"{old}/", f"{old}0")
        )
        renamed = [session.renamed(old, new) for session in self._rows.sessions(rows)]
        return [self._change(session) for session in renamed if session is not None]

    def delete(self, session_id: str, *, stop_token: str, force: bool) -> Release:
        session = self._get(session_id)
        self._remove([session])
        released = self._release(session.kernel_id, stop_token, force=force)
        return Release(session=session, kernel_id=released)

    def finish_stop(self, token: str) -> None:
        now = utcnow()
        self._connection.execute(
            """UPDATE nbsessions_intent SET verb = 'ended', lease_until = ?
            WHERE token = ? AND verb = 'stop'""",
            (timestamp(now + ENDED_KEPT_FOR), token),
        )
        self.intents[token] = None  # It is history, which need not be written again.
        self._connection.execute(
            """DELETE FROM nbsessions_intent
            WHERE namespace = ? AND scope = ? AND verb = 'ended' AND lease_until < ?""",
            (self._namespace, self._scope, timestamp(now)),
        )

    def end_sessions(self, sessions: Collection[Session]) -> list[Session]:
        found = [(session, self._find(session.session_id)) for session in sessions]
        ended = [now for session, now in found if now and now.kernel_id == session.kernel_id]
        self._remove(ended)
        return ended

    # What others left behind

    def settle_orphans(
        self,
        orphans: Orphans,
        adopted: Iterable[Session],
        ended: Iterable[Session],
        undone: Iterable[Intent],
    ) -> tuple[list[Session], list[str]]:
        """Return the sessions that were removed, and the ids of the owners."""
        for session in adopted:
            moved = self._connection.execute(
                """UPDATE nbsessions_session SET scope = ?, provider = ?
                WHERE namespace = ? AND session_id = ? AND scope = ?""",
                (
                    self._scope,
                    session.provider,
                    self._namespace,
                    session.session_id,
                    session.scope,
                ),
            )
            if moved.rowcount:
                self.changed[session.session_id] = replace(session, scope=self._scope)
        removed = [session for session in ended if self._remove_orphan(session)]
        for intent in undone:
            self._connection.execute(_DELETE_INTENT, (intent.token,))
        forgotten = [
            owner_id
            for owner_id in orphans.owners
            if self._connection.execute(_DELETE_BARE_OWNER, (owner_id,)).rowcount
        ]
        return removed, forgotten

    def _remove_orphan(self, session: Session) -> bool:
        removed = self._connection.execute(
            """DELETE FROM nbsessions_session
            WHERE namespace = ? AND session_id = ? AND scope = ? AND kernel_id = ?""",
            (self._namespace, session.session_id, session.scope, session.kernel_id),
        )
        return removed.rowcount > 0

    # Pieces

    def _get(self, session_id: str) -> Session:
        session = self._find(session_id)
        if session is None:
            raise SessionNotFound(session_id=session_id)
        return session

    def _find(self, session_id: str) -> Session | None:
        rows = self._connection.execute(_SELECT_BY_ID, (self._namespace, self._scope, session_id))
        return next(iter(self._rows.sessions(rows)), None)

    def _find_by_document(self, document: str | None) -> Session | None:
        # NULL equals nothing: sessions without a path are never found.
        rows = self._connection.execute(
            _SELECT_BY_DOCUMENT, (self._namespace, self._scope, document)
        )
        return next(iter(self._rows.sessions(rows)), None)

    def _held_by(self, kernel_id: str) -> Sequence[Session]:
        rows = self._connection.execute(
            _SELECT_BY_KERNEL, (self._namespace, self._scope, kernel_id)
        )
        return self._rows.sessions(rows)

    def _insert(self, session: Session) -> Session:
        try:
            cursor = self._connection.execute(
                _INSERT_SESSION,
                (
                    self._namespace,
                    session.session_id,
                    session.scope,
                    session.provider,
                    session.path,
                    session.document,
                    session.name,
                    session.type,
                    session.kernel_id,
                    session.kernel_name,
                    timestamp(session.created),
                    timestamp(session.last_activity),
                ),
            )
        except sqlite3.IntegrityError as error:
            raise InvalidRequest(
                "session_id", f"{session.session_id!r} is the id of another session"
            ) from error
        assert cursor.lastrowid is not None
        session = replace(session, seq=cursor.lastrowid)
        self.changed[session.session_id] = session
        return session

    def _change(self, session: Session) -> Session:
        session = replace(session, last_activity=utcnow())
        self._connection.execute(
            _UPDATE_SESSION,
            (
                session.provider,
                session.path,
                session.document,
                session.name,
                session.type,
                session.kernel_id,
                session.kernel_name,
                timestamp(session.last_activity),
                session.seq,
            ),
        )
        self.changed[session.session_id] = session
        return session

    def _remove(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self._connection.execute(_DELETE_SESSION, (session.seq,))
            self.changed[session.session_id] = None

    def _release(self, kernel_id: str, stop_token: str, *, force: bool) -> str | None:
        """Note that the kernel is to be stopped, unless others hold it. Returns its id then."""
        others = self._held_by(kernel_id)
        if others and not force:
            return None
        self._remove(others)
        self._note_stop(stop_token, kernel_id)
        return kernel_id

    def _insert_intent(self, intent: Intent) -> bool:
        cursor = self._connection.execute(
            _INSERT_INTENT,
            (
                intent.token,
                self._namespace,
                intent.scope,
                intent.document,
                intent.verb.value,
                intent.kernel_id,
                self._scope,
                timestamp(intent.lease_until),
            ),
        )
        if cursor.rowcount != 1:
            return False
        self.intents[intent.token] = intent
        return True

    def _note_stop(self, token: str, kernel_id: str) -> None:
        self._drop(token, Verb.LOST)
        self._insert_intent(
            Intent(
                token=token,
                verb=Verb.STOP,
                scope=self._scope,
                document=None,
                kernel_id=kernel_id,
                lease_until=utcnow() + START_LEASE,
            )
        )

    def _drop(self, token: str, verb: Verb) -> bool:
        cursor = self._connection.execute(
            "DELETE FROM nbsessions_intent WHERE token = ? AND verb = ?", (token, verb.value)
        )
        if cursor.rowcount != 1:
            return False
        self.intents[token] = None
        return True

    def _claim(self, kernel_id: str) -> None:
        """Refuse an id that anybody in the store uses, or is about to; forget that it ended."""
        holder = self._connection.execute(
            "SELECT 1 FROM nbsessions_session WHERE kernel_id = ?", (kernel_id,)
        ).fetchone()
        if holder is not None:
            raise KernelConflict(kernel_id, "belongs to another session")
        going = self._connection.execute(
            "SELECT 1 FROM nbsessions_intent WHERE kernel_id = ? AND verb <> 'ended'",
            (kernel_id,),
        ).fetchone()
        if going is not None:
            raise KernelConflict(kernel_id, "is being started or stopped")
        self._connection.execute(
            "DELETE FROM nbsessions_intent WHERE kernel_id = ? AND verb = 'ended'", (kernel_id,)
        )

    def _refuse_unsettled(self, kernel_id: str) -> None:
        unsettled = self._connection.execute(
            """SELECT 1 FROM nbsessions_intent
            WHERE kernel_id = ? AND (verb <> 'ended' OR lease_until >= ?)""",
            (kernel_id, timestamp(utcnow())),
        ).fetchone()
        if unsettled is not None:
            raise KernelConflict(kernel_id, "is being started or stopped")
