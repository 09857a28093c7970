"""Reads a database without registering as a server. Writes nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from nbsessions.identity import new_owner, pid_of
from nbsessions.models import Owner
from nbsessions.stores.inspection import (
    DatabaseCondition,
    DatabaseInspection,
    OwnerState,
    StoreContents,
    StoredIntent,
    StoredOwner,
    StoredSession,
)
from nbsessions.stores.postgres.database import Database
from nbsessions.stores.postgres.examination import examine
from nbsessions.stores.postgres.owners import OtherOwner
from nbsessions.stores.postgres.rows import Row, intents_from_rows, session_from_row
from nbsessions.stores.postgres.schema import read_version
from nbsessions.stores.postgres.settings import connection_settings
from nbsessions.stores.postgres.statements import INTENT_COLUMNS, SESSION_COLUMNS

READ_TIMEOUT = 3.0
"""Seconds for reading, after the connection was made."""

# A snapshot, so that each session is read with its owner.
_BEGIN = """BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL lock_timeout = '3s';
    SET LOCAL statement_timeout = '3s'"""
_IS_CHOSEN = "(%(namespace)s::text IS NULL OR namespace = %(namespace)s)"


def _is_readable(column: str) -> str:
    # Those of Python. A role can store any others in its namespace, and one would fail the query.
    return f"({column} >= '0002-01-01Z' AND {column} < '9999-01-01Z')"


_HAS_READABLE_TIMES = f"({_is_readable('created')} AND {_is_readable('last_activity')})"
_SELECT_SESSIONS = f"""SELECT namespace, {SESSION_COLUMNS} FROM nbsessions_session
    WHERE {_IS_CHOSEN} AND {_HAS_READABLE_TIMES} ORDER BY seq"""
_SELECT_OPEN_INTENTS = f"""SELECT namespace, {INTENT_COLUMNS} FROM nbsessions_intent
    WHERE {_IS_CHOSEN} AND {_is_readable("lease_until")} AND verb <> 'ended' ORDER BY seq"""
_SELECT_OWNERS = f"""SELECT owner, namespace, scope, provider, host, boot, process,
    stopped IS NOT NULL AS stopped, clock_timestamp() - heartbeat AS silent
    FROM nbsessions_owner
    WHERE {_IS_CHOSEN} AND {_is_readable("heartbeat")} ORDER BY heartbeat"""
_SELECT_UNREADABLE = f"""SELECT 'owner', owner, namespace FROM nbsessions_owner
    WHERE {_IS_CHOSEN} AND NOT {_is_readable("heartbeat")}
    UNION ALL SELECT 'session', session_id, namespace FROM nbsessions_session
    WHERE {_IS_CHOSEN} AND NOT {_HAS_READABLE_TIMES} ORDER BY 3, 1, 2"""

_LOG = logging.getLogger(__name__)


def inspection_from_url(url: str) -> PostgresInspection:
    """Return an inspection for a URL that libpq understands."""
    return PostgresInspection(connection_settings(url))


class PostgresInspection(DatabaseInspection):
    """Reads a database over a new connection each time."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """``settings`` are those of libpq. They may have a password, which is never logged."""
        self._database = Database(settings)
        self.name = self._database.name

    def read_contents(self, namespace: str | None = None) -> StoreContents:
        """See StoreInspection."""
        with self._database.single_connection(READ_TIMEOUT) as connection:
            connection.execute(_BEGIN)
            if read_version(connection) == 0:
                return StoreContents()
            values = {"namespace": namespace}
            # In the order in which a migration or a grant locks the tables: see ISOLATED.
            owners = connection.execute(_SELECT_OWNERS, values).fetchall()
            intents = connection.execute(_SELECT_OPEN_INTENTS, values).fetchall()
            sessions = connection.execute(_SELECT_SESSIONS, values).fetchall()
            unreadable = connection.execute(_SELECT_UNREADABLE, values).fetchall()
        for row in unreadable:
            _LOG.warning(
                "The session store %s has a row that cannot be read. The row is left out: the %s "
                "%r in the namespace %r has an impossible time",
                self.name,
                *row,
            )
        observer = new_owner()
        return StoreContents(
            sessions=tuple(
                StoredSession(namespace=row[0], session=session_from_row(row[1:]))
                for row in sessions
            ),
            intents=tuple(
                StoredIntent(namespace=row[0], intent=intent)
                for row in intents
                for intent in intents_from_rows([row[1:]])
            ),
            owners=tuple(_owner(row, observer) for row in owners),
        )

    def examine(self) -> DatabaseCondition:
        """See DatabaseInspection."""
        with self._database.single_connection(READ_TIMEOUT) as connection:
            return examine(connection, begin=_BEGIN)


def _owner(row: Row, observer: Owner) -> StoredOwner:
    owner_id, namespace, scope, provider, host, boot_id, process, stopped, silent = row
    shares = scope != owner_id
    other = OtherOwner(
        owner_id=owner_id,
        provider=provider,
        host=host,
        boot_id=boot_id,
        process=process,
        shares=shares,
        stopped=stopped,
        silent=silent,
    )
    return StoredOwner(
        owner=Owner(
            owner_id=owner_id,
            host=host,
            boot_id=boot_id,
            pid=pid_of(process),
            process=process,
            provider=provider,
            shared_scope=scope if shares else "",
        ),
        namespace=namespace,
        silent_for=silent,
        state=_state(other, observer),
    )


def _state(other: OtherOwner, observer: Owner) -> OwnerState:
    if other.is_dead(observer):
        return OwnerState.DEAD
    return OwnerState.LIVE if other.is_live(observer) else OwnerState.SILENT
