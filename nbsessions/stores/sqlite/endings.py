"""Finds out why sessions are not among those of a scope."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence

from nbsessions.models import Ending, EndReason, utcnow
from nbsessions.stores.base import ENDINGS_KEPT_FOR
from nbsessions.stores.sqlite.rows import RowReader, timestamp
from nbsessions.stores.sqlite.statements import SELECT_WHEREABOUTS

Query = Callable[[str, Sequence[object]], list[sqlite3.Row]]


def find_endings(
    query: Query, rows: RowReader, namespace: str, scope: str, session_ids: Collection[str]
) -> dict[str, Ending]:
    """See SessionStore.find_endings. Blocks. Raises StoreError."""
    since = timestamp(utcnow() - ENDINGS_KEPT_FOR)
    found = {}
    for session_id in session_ids:
        key = (namespace, session_id)
        try:
            whereabouts = query(SELECT_WHEREABOUTS, (*key, *key, since))
        except UnicodeEncodeError:
            continue  # No session can have such an id.
        ending = _ending(session_id, whereabouts, rows, scope)
        if ending is not None:
            found[session_id] = ending
    return found


def _ending(
    session_id: str, whereabouts: Sequence[sqlite3.Row], rows: RowReader, scope: str
) -> Ending | None:
    scopes = [row["scope"] for row in whereabouts if row["scope"] is not None]
    if scope in scopes:
        return None
    if scopes:
        return Ending(session_id=session_id, reason=EndReason.ELSEWHERE)
    return next(iter(rows.endings(whereabouts)), None)
