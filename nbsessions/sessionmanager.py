"""The documented synchronous session manager, which keeps sessions in an SQLite table."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from msgspec import UNSET, UnsetType
from tornado.web import HTTPError
from traitlets import Unicode
from traitlets.config.configurable import LoggingConfigurable

from nbsessions.stores.sqlite.validation import validate_database_path

_COLUMNS = ("session_id", "name", "path", "kernel_id")
_SELECT = "SELECT session_id, name, path, kernel_id FROM session"
# A column that is UNSET has its "any" flag bound as true, so that one constant statement works for
# every set of columns.
_SELECT_WHERE = f"""{_SELECT}
    WHERE (:any_session_id OR session_id = :session_id)
    AND (:any_name OR name = :name)
    AND (:any_path OR path = :path)
    AND (:any_kernel_id OR kernel_id = :kernel_id)
    ORDER BY rowid LIMIT 1"""
_UPDATE = """UPDATE session SET
    name = CASE WHEN :any_name THEN name ELSE :name END,
    path = CASE WHEN :any_path THEN path ELSE :path END,
    kernel_id = CASE WHEN :any_kernel_id THEN kernel_id ELSE :kernel_id END
    WHERE session_id = :this"""


class SessionManager(LoggingConfigurable):
    """A base class session manager.

    Records to which kernel each notebook is attached. A session's model is
    ``{"id": str, "notebook": {"name": str, "path": str}, "kernel": {"id": str}}``, where
    *name* is the notebook's file name and *path* its directory. A session that does not exist
    raises a Tornado ``HTTPError(404)``, and an unknown column raises TypeError.

    As a context manager, it closes the database on exit.
    """

    database_filepath = Unicode(
        ":memory:",
        help="""The SQLite file that sessions are kept in. The default, `:memory:`, keeps them
        in memory, where they are lost when the process exits.""",
    ).tag(config=True)

    _validate_database_filepath = validate_database_path("database_filepath")

    _connection: sqlite3.Connection | None = None
    _cursor: sqlite3.Cursor | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """Start a database connection"""
        if self._connection is None:
            # Without an isolation level, each statement is committed immediately.
            path = os.path.expanduser(self.database_filepath)
            self._connection = sqlite3.connect(path, isolation_level=None)
        return self._connection

    @property
    def cursor(self) -> sqlite3.Cursor:
        """Start a cursor and create a database called 'session'"""
        if self._cursor is None:
            self._cursor = self.connection.cursor()
            self._cursor.execute(
                "CREATE TABLE IF NOT EXISTS session (session_id, name, path, kernel_id)"
            )
        return self._cursor

    def close(self) -> None:
        """Close the database. Idempotent; the next use opens it again."""
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> SessionManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def session_exists(self, name: str | None, path: str | None) -> bool:
        """Check to see if the session for a given notebook exists"""
        return self._find(name=name, path=path) is not None

    def new_session_id(self) -> str:
        """Create a uuid for a new session"""
        return str(uuid.uuid4())

    def create_session(
        self, name: str | None = None, path: str | None = None, kernel_id: str | None = None
    ) -> dict[str, Any]:
        """Creates a session and returns its model"""
        session_id = self.new_session_id()
        return self.save_session(session_id, name=name, path=path, kernel_id=kernel_id)

    def save_session(
        self,
        session_id: str,
        name: str | None = None,
        path: str | None = None,
        kernel_id: str | None = None,
    ) -> dict[str, Any]:
        """Saves the items for the session with the given session_id

        Creates a row that holds the information for a session, and returns its model.

        Parameters
        ----------
        session_id : str
            uuid for the session; this method must be given a session_id
        name : str
            the .ipynb notebook name that started the session
        path : str
            the path to the named notebook
        kernel_id : str
            a uuid for the kernel associated with this session

        Returns
        -------
        model : dict
            a dictionary of the session model
        """
        self.cursor.execute(
            "INSERT INTO session (session_id, name, path, kernel_id) VALUES (?, ?, ?, ?)",
            (session_id, name, path, kernel_id),
        )
        return self.get_session(session_id=session_id)

    def get_session(self, **kwargs: str | None) -> dict[str, Any]:
        """Returns the model for a particular session.

        Takes a keyword argument and searches for the value in the session database, then
        returns the rest of the session's info. Of several sessions, the oldest is returned.

        Parameters
        ----------
        **kwargs : keyword argument
            must be given one of the keywords and values from the session database
            (i.e. session_id, name, path, kernel_id)

        Returns
        -------
        model : dict
            a dictionary that includes all the information from the session described by the
            kwarg.

        Raises
        ------
        TypeError
            without an argument, or for one that is no column
        tornado.web.HTTPError
            404, when there is no such session
        """
        if not kwargs:
            raise TypeError("must specify a column to query")
        row = self._find(**kwargs)
        if row is None:
            raise _not_found(kwargs)
        return self.row_factory(self.cursor, row)

    def update_session(self, session_id: str, **kwargs: str | None) -> None:
        """Updates the values in the session database.

        Changes the values of the session with the given session_id with the values from the
        keyword arguments. With no keyword arguments, nothing changes.

        Parameters
        ----------
        session_id : str
            a uuid that identifies a session in the sqlite3 database
        **kwargs : str
            the key must correspond to a column title in session database, and the value
            replaces the current value in the session with session_id.

        Raises
        ------
        TypeError
            for a keyword that is no column
        tornado.web.HTTPError
            404, when there is no such session
        """
        parameters = _parameters(kwargs)
        updated = self.cursor.execute(_UPDATE, {**parameters, "this": session_id})
        if updated.rowcount == 0:
            raise _not_found({"session_id": session_id})

    def list_sessions(self) -> list[dict[str, Any]]:
        """Returns a list of dictionaries containing all the information from
        the session database"""
        rows = self.cursor.execute(f"{_SELECT} ORDER BY rowid").fetchall()
        return [self.row_factory(self.cursor, row) for row in rows]

    def delete_session(self, session_id: str) -> None:
        """Deletes the row in the session database with given session_id"""
        deleted = self.cursor.execute("DELETE FROM session WHERE session_id = ?", (session_id,))
        if deleted.rowcount == 0:
            raise _not_found({"session_id": session_id})

    @staticmethod
    def row_factory(cursor: sqlite3.Cursor, row: Sequence[Any]) -> dict[str, Any]:
        """Takes sqlite database session row and turns it into a dictionary"""
        columns = [column[0] for column in cursor.description]
        values = dict(zip(columns, row, strict=True))
        return {
            "id": values["session_id"],
            "notebook": {"name": values["name"], "path": values["path"]},
            "kernel": {"id": values["kernel_id"]},
        }

    def _find(self, **columns: str | None) -> Sequence[Any] | None:
        row: Sequence[Any] | None = self.cursor.execute(
            _SELECT_WHERE, _parameters(columns)
        ).fetchone()
        return row


def _parameters(values: dict[str, str | None]) -> dict[str, str | bool | None]:
    for column in values:
        if column not in _COLUMNS:
            raise TypeError(f"No such column: {column!r}")
    parameters: dict[str, str | bool | None] = {}
    for column in _COLUMNS:
        value: str | UnsetType | None = values.get(column, UNSET)
        parameters[f"any_{column}"] = value is UNSET
        parameters[column] = None if value is UNSET else value
    return parameters


def _not_found(looked_for: dict[str, str | None]) -> HTTPError:
    terms = ", ".join(f"{column}={value!r}" for column, value in looked_for.items())
    return HTTPError(404, f"Session not found: {terms}")
