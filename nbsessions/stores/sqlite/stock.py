"""Reads sessions from a file that jupyter_server's own session manager wrote."""

from __future__ import annotations

import sqlite3

from nbsessions.models import Session, utcnow

STOCK_SCOPE = "jupyter_server"
"""The owner of imported sessions. No server has this id, so the owner counts as dead."""

_COLUMNS = {"session_id", "path", "name", "type", "kernel_id"}


# The table has no types and no keys, and contains the values exactly as clients sent them.
_SELECT = """SELECT session_id, path, name, type, kernel_id FROM session
    WHERE typeof(session_id) = 'text' AND typeof(kernel_id) = 'text'
    AND typeof(path) IN ('text', 'null') AND typeof(name) IN ('text', 'null')
    AND typeof(type) IN ('text', 'null') AND session_id <> '' AND kernel_id <> ''
    AND rowid IN (SELECT MIN(rowid) FROM session GROUP BY session_id) ORDER BY rowid"""


def is_stock_file(connection: sqlite3.Connection) -> bool:
    """Return whether the file has the table of jupyter_server's own session manager."""
    rows = connection.execute("SELECT name FROM pragma_table_info('session')")
    return _COLUMNS.issubset(row["name"] for row in rows)


def read_stock_sessions(connection: sqlite3.Connection) -> list[Session]:
    """Return the sessions of that table. Rows that are not valid sessions are skipped."""
    rows = connection.execute(_SELECT)
    now = utcnow()
    return [
        Session(
            session_id=row["session_id"],
            path=row["path"],
            name=row["name"],
            type=row["type"],
            kernel_id=row["kernel_id"],
            kernel_name=None,
            provider="local:",
            scope=STOCK_SCOPE,
            created=now,
            last_activity=now,
        )
        for row in rows
        # Values that are not UTF-8 are read as bytes.
        if not any(isinstance(value, bytes) for value in row)
    ]
