"""Converts rows of the tables. Unreadable rows are left out, but stay in the file."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nbsessions.models import Ending, EndReason, Intent, Session, Verb


class UnreadableRow(Exception):
    """A row has invalid values. It is damaged, or was written by a newer release."""

    def __init__(self, table: str, key: object, problem: object) -> None:
        super().__init__(f"row {key!r} of nbsessions_{table}: {problem}")


class RowReader:
    """Converts the rows of one file. Safe to use from any thread."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._path = path
        self._log = log
        self._reported: set[str] = set()

    def sessions(self, rows: Iterable[sqlite3.Row]) -> list[Session]:
        """Return the sessions whose rows can be read."""
        return list(self._read(rows, session_from_row))

    def intents(self, rows: Iterable[sqlite3.Row]) -> list[Intent]:
        """Return the intents whose rows can be read."""
        return list(self._read(rows, intent_from_row))

    def endings(self, rows: Iterable[sqlite3.Row]) -> list[Ending]:
        """Return the endings whose rows can be read."""
        return list(self._read(rows, ending_from_row))

    def heartbeat(self, row: sqlite3.Row) -> datetime | None:
        """Return the time of the owner's last heartbeat, or None if it cannot be read."""
        return next(self._read([row], heartbeat_from_row), None)

    def seen(self, row: sqlite3.Row) -> datetime | None:
        """Return the time of the owner's last sign of life, or None if it cannot be read."""
        return next(self._read([row], seen_from_row), None)

    def _read(self, rows: Iterable[sqlite3.Row], convert: Any) -> Iterator[Any]:
        for row in rows:
            try:
                yield convert(row)
            except UnreadableRow as error:
                self._report_once(str(error))

    def _report_once(self, problem: str) -> None:
        if problem not in self._reported:
            self._reported.add(problem)
            self._log.warning(
                "The session store %s has a row that cannot be read. The row is left out, but "
                "stays in the file: %s",
                self._path,
                problem,
            )


def text_of(data: bytes) -> str | bytes:
    """Return the text of a column, or the bytes if they are not valid UTF-8.

    With sqlite3's own conversion, one invalid value would fail the whole query.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def timestamp(moment: datetime) -> str:
    """Return the time as text that sorts chronologically."""
    return moment.isoformat(timespec="microseconds")


def session_from_row(row: sqlite3.Row) -> Session:
    """Convert a row of the session table. Raises UnreadableRow."""
    # Access columns by position for speed, because a list may have a thousand rows.
    seq, session_id, scope, provider, path, name, type_, kernel_id, kernel_name = row[:9]
    try:
        for value in (session_id, scope, provider, kernel_id):
            if type(value) is not str:
                raise TypeError(f"{value!r} is not text")
        for value in (path, name, type_, kernel_name):
            if value is not None and type(value) is not str:
                raise TypeError(f"{value!r} is not text")
        return Session(
            session_id=session_id,
            path=path,
            name=name,
            type=type_,
            kernel_id=kernel_id,
            kernel_name=kernel_name,
            provider=provider,
            scope=scope,
            created=_moment(row[9]),
            last_activity=_moment(row[10]),
            seq=seq,
        )
    except (TypeError, ValueError) as error:
        raise UnreadableRow("session", seq, error) from error


def intent_from_row(row: sqlite3.Row) -> Intent:
    """Convert a row of the intent table. Raises UnreadableRow."""
    try:
        for value in (row["token"], row["scope"], row["owner"]):
            if type(value) is not str:
                raise TypeError(f"{value!r} is not text")
        return Intent(
            token=row["token"],
            verb=Verb(row["verb"]),
            scope=row["scope"],
            document=row["document"],
            kernel_id=row["kernel_id"],
            lease_until=_moment(row["lease_until"]),
            owner=row["owner"],
        )
    except (TypeError, ValueError) as error:
        raise UnreadableRow("intent", row["token"], error) from error


def ending_from_row(row: sqlite3.Row) -> Ending:
    """Convert a row of the ending table. Raises UnreadableRow."""
    try:
        if type(row["session_id"]) is not str:
            raise TypeError(f"{row['session_id']!r} is not text")
        return Ending(
            session_id=row["session_id"],
            reason=EndReason(row["reason"]),
            ended=_moment(row["ended"]).astimezone(timezone.utc),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableRow("ending", row["session_id"], error) from error


def heartbeat_from_row(row: sqlite3.Row) -> datetime:
    """Return the time of the last heartbeat in an owner's row. Raises UnreadableRow."""
    return _time_of_owner(row, "heartbeat")


def seen_from_row(row: sqlite3.Row) -> datetime:
    """Return when the owner stopped, or else its last heartbeat. Raises UnreadableRow."""
    return _time_of_owner(row, "seen")


def _time_of_owner(row: sqlite3.Row, column: str) -> datetime:
    try:
        return _moment(row[column])
    except (TypeError, ValueError) as error:
        raise UnreadableRow("owner", row["owner"], error) from error


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment
