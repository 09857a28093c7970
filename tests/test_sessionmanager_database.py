"""The database of the documented session manager: its location, and when it is closed."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from nbsessions import SessionManager

COLUMNS = ["session_id", "name", "path", "kernel_id"]


@pytest.fixture
def manager() -> Iterator[SessionManager]:
    with SessionManager() as opened:
        yield opened


def test_the_connection_is_made_once(manager: SessionManager) -> None:
    assert isinstance(manager.connection, sqlite3.Connection)
    assert manager.connection is manager.connection


def test_the_cursor_makes_the_table_called_session(manager: SessionManager) -> None:
    assert isinstance(manager.cursor, sqlite3.Cursor)
    assert manager.cursor is manager.cursor
    manager.cursor.execute("SELECT * FROM session")
    assert [column[0] for column in manager.cursor.description] == COLUMNS


def test_sessions_are_kept_in_memory_by_default() -> None:
    with SessionManager() as first, SessionManager() as second:
        assert first.database_filepath == ":memory:"
        first.create_session("a.ipynb", "")
        assert second.list_sessions() == []


def test_sessions_in_a_file_survive_the_manager(tmp_path: Path) -> None:
    path = str(tmp_path / "sessions.db")
    with SessionManager(database_filepath=path) as first:
        created = [first.create_session(name, "folder", "kernel") for name in ("b", "a")]
    with SessionManager(database_filepath=path) as second:
        assert second.list_sessions() == created


def test_each_change_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "sessions.db")
    with SessionManager(database_filepath=path) as first:
        created = first.create_session("a", "", "kernel")
        with SessionManager(database_filepath=path) as second:
            assert second.get_session(session_id=created["id"]) == created
            second.update_session(created["id"], name="b")
            assert first.get_session(name="b")["id"] == created["id"]
            first.delete_session(created["id"])
            assert second.list_sessions() == []


def test_the_file_can_be_configured(tmp_path: Path) -> None:
    path = str(tmp_path / "sessions.db")
    with SessionManager(config=Config(SessionManager={"database_filepath": path})) as manager:
        manager.create_session("a", "")
    assert Path(path).is_file()


def test_a_file_below_the_home_directory_can_be_given_with_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with SessionManager(database_filepath="~/sessions.db") as manager:
        manager.create_session("a", "")
    assert (tmp_path / "sessions.db").is_file()


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0"])
def test_an_empty_or_an_sqlite_file_is_accepted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions.db"
    path.write_bytes(content)
    assert SessionManager(database_filepath=str(path)).database_filepath == str(path)


@pytest.mark.parametrize("content", [b"x", b"This is not a database", b"SQLite format 2\0"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(TraitError, match="not an SQLite database"):
        SessionManager(database_filepath=str(path))
    assert path.read_bytes() == content


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraitError, match="is a directory"):
        SessionManager(database_filepath=str(tmp_path))


def test_closing_is_idempotent_and_the_next_use_opens_again(tmp_path: Path) -> None:
    manager = SessionManager(database_filepath=str(tmp_path / "sessions.db"))
    manager.close()
    created = manager.create_session("a", "")
    manager.close()
    manager.close()
    assert manager.list_sessions() == [created]
    manager.close()


def test_a_context_closes_the_connection(tmp_path: Path) -> None:
    with SessionManager(database_filepath=str(tmp_path / "sessions.db")) as manager:
        connection = manager.connection
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


@pytest.mark.parametrize("used", [False, True])
def test_a_forgotten_manager_goes_quietly(
    used: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    gc.collect()  # leftovers of other tests may log something
    caplog.clear()
    capfd.readouterr()
    manager = SessionManager()
    if used:
        manager.list_sessions()
    del manager
    gc.collect()
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
