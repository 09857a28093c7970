"""Converts rows of the tables to values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from nbsessions.models import Ending, EndReason, Intent, Session, Verb

Row = Sequence[Any]


def session_from_row(row: Row) -> Session:
    """Convert a row with the SESSION_COLUMNS."""
    return Session(
        seq=row[0],
        session_id=row[1],
        scope=row[2],
        provider=row[3],
        path=row[4],
        name=row[5],
        type=row[6],
        kernel_id=row[7],
        kernel_name=row[8],
        created=_utc(row[9]),
        last_activity=_utc(row[10]),
    )


def intents_from_rows(rows: Iterable[Row]) -> list[Intent]:
    """Convert rows with the INTENT_COLUMNS. Leaves out verbs of newer releases."""
    known = {verb.value for verb in Verb}
    return [intent_from_row(row) for row in rows if row[1] in known]


def intent_from_row(row: Row) -> Intent:
    """Convert a row with the INTENT_COLUMNS. Raises ValueError for the verb of a newer release."""
    token, verb, scope, document, kernel_id, lease_until, owner = row
    return Intent(
        token=token,
        verb=Verb(verb),
        scope=scope,
        document=document,
        kernel_id=kernel_id,
        lease_until=_utc(lease_until),
        owner=owner,
    )


def ending_from_row(row: Row) -> Ending | None:
    """Convert a row with the ENDING_COLUMNS, or return None for a reason of a newer release."""
    session_id, reason, ended = row
    try:
        return Ending(session_id=session_id, reason=EndReason(reason), ended=_utc(ended))
    except ValueError:
        return None


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc)
