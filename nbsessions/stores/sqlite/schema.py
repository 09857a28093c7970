"""The tables of the SQLite store, and migrations from older versions."""

from __future__ import annotations

import sqlite3

from nbsessions.errors import StoreTooNew

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE nbsessions_namespace (
            namespace TEXT PRIMARY KEY,
            revision INTEGER NOT NULL
        )""",
        """CREATE TABLE nbsessions_session (
            seq INTEGER PRIMARY KEY,
            namespace TEXT NOT NULL,
            session_id TEXT NOT NULL,
            scope TEXT NOT NULL,
            provider TEXT NOT NULL,
            path TEXT,
            document TEXT,
            name TEXT,
            type TEXT,
            kernel_id TEXT NOT NULL,
            kernel_name TEXT,
            created TEXT NOT NULL,
            last_activity TEXT NOT NULL,
            UNIQUE (namespace, session_id)
        )""",
        """CREATE INDEX nbsessions_session_document
            ON nbsessions_session (namespace, scope, document)""",
        "CREATE INDEX nbsessions_session_kernel ON nbsessions_session (kernel_id)",
        """CREATE TABLE nbsessions_intent (
            token TEXT PRIMARY KEY,
            namespace TEXT NOT NULL,
            scope TEXT NOT NULL,
            document TEXT,
            verb TEXT NOT NULL,
            kernel_id TEXT,
            owner TEXT NOT NULL,
            lease_until TEXT NOT NULL
        )""",
        """CREATE UNIQUE INDEX nbsessions_intent_start
            ON nbsessions_intent (namespace, scope, document) WHERE verb = 'start'""",
        "CREATE INDEX nbsessions_intent_kernel ON nbsessions_intent (kernel_id)",
        """CREATE TABLE nbsessions_owner (
            owner TEXT PRIMARY KEY,
            namespace TEXT NOT NULL,
            host TEXT NOT NULL,
            boot TEXT NOT NULL,
            pid INTEGER NOT NULL,
            heartbeat TEXT NOT NULL,
            stopped TEXT
        )""",
        "CREATE INDEX nbsessions_owner_namespace ON nbsessions_owner (namespace)",
    ),
    (
        "ALTER TABLE nbsessions_owner ADD COLUMN provider TEXT NOT NULL DEFAULT ''",
        # The revision of the owner's last write. It shows the owner whether the file was restored
        # to an earlier state.
        "ALTER TABLE nbsessions_owner ADD COLUMN written INTEGER NOT NULL DEFAULT 0",
    ),
    (
        """CREATE TABLE nbsessions_ending (
            namespace TEXT NOT NULL,
            session_id TEXT NOT NULL,
            reason TEXT NOT NULL,
            ended TEXT NOT NULL,
            PRIMARY KEY (namespace, session_id)
        )""",
        "CREATE INDEX nbsessions_ending_ended ON nbsessions_ending (ended)",
    ),
    (
        """CREATE TABLE nbsessions_shared (
            namespace TEXT NOT NULL,
            scope TEXT NOT NULL,
            sharing_key TEXT NOT NULL,
            token TEXT NOT NULL,
            kernel_id TEXT,
            until TEXT NOT NULL,
            PRIMARY KEY (namespace, scope, sharing_key)
        )""",
        # The scope of the owner's sessions, or '' if a release wrote the row that had no others
        # than those of owners.
        "ALTER TABLE nbsessions_owner ADD COLUMN scope TEXT NOT NULL DEFAULT ''",
    ),
)
"""One entry per schema version. An entry that has been released is never edited."""

_OUR_TABLES = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'nbsessions_session'"

OLDEST_COMPATIBLE = 1
"""The lowest schema version whose code can work with a file of the newest version."""

SALVAGE: tuple[tuple[str, str, str], ...] = (
    (
        """SELECT namespace, revision FROM nbsessions_namespace ORDER BY rowid""",
        """SELECT namespace, revision FROM nbsessions_namespace ORDER BY rowid DESC""",
        """INSERT OR IGNORE INTO nbsessions_namespace (namespace, revision) VALUES (?, ?)""",
    ),
    (
        """SELECT owner, namespace, host, boot, pid, heartbeat, stopped
            FROM nbsessions_owner ORDER BY rowid""",
        """SELECT owner, namespace, host, boot, pid, heartbeat, stopped
            FROM nbsessions_owner ORDER BY rowid DESC""",
        """INSERT OR IGNORE INTO nbsessions_owner
            (owner, namespace, host, boot, pid, heartbeat, stopped)
            VALUES (?, ?, ?, ?, ?, ?, ?)""",
    ),
    (
        """SELECT seq, namespace, session_id, scope, provider, path, document, name, type,
            kernel_id, kernel_name, created, last_activity
            FROM nbsessions_session ORDER BY seq""",
        """SELECT seq, namespace, session_id, scope, provider, path, document, name, type,
            kernel_id, kernel_name, created, last_activity
            FROM nbsessions_session ORDER BY seq DESC""",
        """INSERT OR IGNORE INTO nbsessions_session
            (seq, namespace, session_id, scope, provider, path, document, name, type,
            kernel_id, kernel_name, created, last_activity)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
    ),
    (
        """SELECT token, namespace, scope, document, verb, kernel_id, owner, lease_until
            FROM nbsessions_intent ORDER BY rowid""",
        """SELECT token, namespace, scope, document, verb, kernel_id, owner, lease_until
            FROM nbsessions_intent ORDER BY rowid DESC""",
        """INSERT OR IGNORE INTO nbsessions_intent
            (token, namespace, scope, document, verb, kernel_id, owner, lease_until)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
    ),
    (
        """SELECT namespace, session_id, reason, ended
            FROM nbsessions_ending ORDER BY rowid""",
        """SELECT namespace, session_id, reason, ended
            FROM nbsessions_ending ORDER BY rowid DESC""",
        """INSERT OR IGNORE INTO nbsessions_ending
            (namespace, session_id, reason, ended) VALUES (?, ?, ?, ?)""",
    ),
)
"""Statements for each table: read it forwards, read it backwards, and insert a row.

Reading backwards finds the rows behind the damage.
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the file to the newest schema in one transaction. Raises StoreTooNew.

    A file of a newer release is used as it is if that release has marked it as compatible, so
    that servers of two releases can share a file.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS nbsessions_meta (key TEXT PRIMARY KEY, value INTEGER)"
        )
        version = read_version(connection)
        if version == 0 and connection.execute(_OUR_TABLES).fetchone() is not None:
            raise sqlite3.DatabaseError("database disk image is malformed: its version is gone")
        if version < len(MIGRATIONS):
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            connection.executemany(
                "INSERT OR REPLACE INTO nbsessions_meta (key, value) VALUES (?, ?)",
                [("schema", len(MIGRATIONS)), ("oldest_compatible", OLDEST_COMPATIBLE)],
            )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def read_version(connection: sqlite3.Connection) -> int:
    """Return the version of our tables from the meta table. Raises StoreTooNew."""
    rows = connection.execute("SELECT key, value FROM nbsessions_meta")
    meta: dict[str, int] = {row["key"]: row["value"] for row in rows}
    version = meta.get("schema", 0)
    if meta.get("oldest_compatible", 0) > len(MIGRATIONS):
        raise StoreTooNew(
            f"the session store has schema {version}, but this release of nbsessions reads only "
            f"schemas up to {len(MIGRATIONS)}. Upgrade nbsessions, or configure another file"
        )
    return version
