"""The documented session manager, a standalone class that needs no server."""

from __future__ import annotations

import inspect
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.web import HTTPError
from traitlets.config.configurable import LoggingConfigurable

from nbsessions import SessionManager

COLUMNS = ["session_id", "name", "path", "kernel_id"]


@pytest.fixture
def manager() -> Iterator[SessionManager]:
    with SessionManager() as opened:
        yield opened


def model(session_id: str, name: str | None, path: str | None, kernel_id: str | None) -> Any:
    return {
        "id": session_id,
        "notebook": {"name": name, "path": path},
        "kernel": {"id": kernel_id},
    }


# The class


def test_it_is_a_logging_configurable() -> None:
    assert issubclass(SessionManager, LoggingConfigurable)
    log = logging.getLogger("another")
    assert SessionManager(log=log).log is log


def test_it_is_documented_as_specified() -> None:
    assert (inspect.getdoc(SessionManager) or "").startswith("A base class session manager.")
    first_lines = {
        "connection": "Start a database connection",
        "cursor": "Start a cursor and create a database called 'session'",
        "create_session": "Creates a session and returns its model",
        "delete_session": "Deletes the row in the session database with given session_id",
        "get_session": "Returns the model for a particular session.",
        "list_sessions": "Returns a list of dictionaries containing all the information from",
        "new_session_id": "Create a uuid for a new session",
        "row_factory": "Takes sqlite database session row and turns it into a dictionary",
        "save_session": "Saves the items for the session with the given session_id",
        "session_exists": "Check to see if the session for a given notebook exists",
        "update_session": "Updates the values in the session database.",
    }
    documented = {
        name: (inspect.getdoc(getattr(SessionManager, name)) or "").splitlines()[0]
        for name in first_lines
    }
    assert documented == first_lines


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("create_session", "name=None, path=None, kernel_id=None"),
        ("delete_session", "session_id"),
        ("get_session", "**kwargs"),
        ("list_sessions", ""),
        ("new_session_id", ""),
        ("save_session", "session_id, name=None, path=None, kernel_id=None"),
        ("session_exists", "name, path"),
        ("update_session", "session_id, **kwargs"),
    ],
)
def test_signatures_are_as_specified(name: str, parameters: str) -> None:
    signature = inspect.signature(getattr(SessionManager(), name))
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in _of(signature)]
    assert str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == (
        f"({parameters})"
    )


def _of(signature: inspect.Signature) -> list[inspect.Parameter]:
    return list(signature.parameters.values())


# Creating and saving


def test_a_new_id_is_a_fresh_uuid4(manager: SessionManager) -> None:
    session_ids = {manager.new_session_id() for _ in range(10)}
    assert len(session_ids) == 10
    assert all(str(uuid.UUID(each, version=4)) == each for each in session_ids)


def test_creating_returns_the_model(manager: SessionManager) -> None:
    created = manager.create_session(name="a.ipynb", path="folder/", kernel_id="kernel")
    assert created == model(created["id"], "a.ipynb", "folder/", "kernel")
    assert str(uuid.UUID(created["id"])) == created["id"]
    assert manager.get_session(session_id=created["id"]) == created


def test_creating_takes_name_path_and_kernel_in_this_order(manager: SessionManager) -> None:
    created = manager.create_session("a.ipynb", "folder", "kernel")
    assert created == model(created["id"], "a.ipynb", "folder", "kernel")


def test_creating_with_nothing_leaves_nothing_given(manager: SessionManager) -> None:
    created = manager.create_session()
    assert created == model(created["id"], None, None, None)


def test_saving_returns_the_model(manager: SessionManager) -> None:
    saved = manager.save_session("an id", name="a.ipynb", path="folder", kernel_id="kernel")
    assert saved == model("an id", "a.ipynb", "folder", "kernel")
    assert manager.list_sessions() == [saved]


def test_saving_needs_an_id(manager: SessionManager) -> None:
    with pytest.raises(TypeError):
        manager.save_session()  # type: ignore[call-arg]


@pytest.mark.parametrize("text", ["ü/データ.ipynb", "'; DROP TABLE session; --", "a\0b", ""])
def test_any_text_is_kept_as_it_is(manager: SessionManager, text: str) -> None:
    created = manager.create_session(text, text, text)
    assert created == model(created["id"], text, text, text)
    assert manager.get_session(name=text, path=text, kernel_id=text) == created


# Looking up


@pytest.mark.parametrize(
    "query",
    [
        {"session_id": "2"},
        {"name": "b"},
        {"path": "other"},
        {"kernel_id": "k2"},
        {"name": "b", "path": "other"},
        {"session_id": "2", "name": "b", "path": "other", "kernel_id": "k2"},
    ],
)
def test_a_session_is_found_by_any_column(manager: SessionManager, query: dict[str, str]) -> None:
    manager.save_session("1", "a", "folder", "k1")
    second = manager.save_session("2", "b", "other", "k2")
    assert manager.get_session(**query) == second


def test_of_several_sessions_the_oldest_is_found(manager: SessionManager) -> None:
    for session_id in ("2", "1"):
        manager.save_session(session_id, "a", "folder", "kernel")
    assert manager.get_session(name="a")["id"] == "2"


def test_a_missing_session_is_a_404_that_says_what_was_looked_for(
    manager: SessionManager,
) -> None:
    manager.save_session("1", "a", "folder", "k1")
    with pytest.raises(HTTPError) as missing:
        manager.get_session(name="a%s", path="elsewhere")
    assert missing.value.status_code == 404
    assert missing.value.get_message() == "Session not found: name='a%s', path='elsewhere'"


def test_looking_up_needs_a_column(manager: SessionManager) -> None:
    with pytest.raises(TypeError, match="column"):
        manager.get_session()


@pytest.mark.parametrize("column", ["type", "rowid", "any_name", "name = name OR 1 --"])
def test_an_unknown_column_is_a_type_error(manager: SessionManager, column: str) -> None:
    created = manager.create_session("a", "")
    with pytest.raises(TypeError, match="No such column"):
        manager.get_session(**{column: "a"})
    with pytest.raises(TypeError, match="No such column"):
        manager.get_session(**{"name": "a", column: "a"})
    with pytest.raises(TypeError, match="No such column"):
        manager.update_session(created["id"], **{"name": "b", column: "b"})
    assert manager.list_sessions() == [created]


def test_a_notebook_has_a_session_when_name_and_path_agree(manager: SessionManager) -> None:
    manager.create_session(name="a.ipynb", path="folder")
    assert manager.session_exists("a.ipynb", "folder") is True
    assert manager.session_exists("a.ipynb", "") is False
    assert manager.session_exists("b.ipynb", "folder") is False
    assert manager.session_exists(path="folder", name="a.ipynb") is True


def test_sessions_are_listed_in_the_order_of_their_making(manager: SessionManager) -> None:
    assert manager.list_sessions() == []
    saved = [manager.save_session(each, each, "", f"k-{each}") for each in ("c", "a", "b")]
    assert manager.list_sessions() == saved
    manager.update_session("c", name="z")
    assert [each["id"] for each in manager.list_sessions()] == ["c", "a", "b"]


# Changing


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "b"}, model("1", "b", "folder", "k1")),
        ({"path": ""}, model("1", "a", "", "k1")),
        ({"kernel_id": None}, model("1", "a", "folder", None)),
        ({"name": "b", "path": "c", "kernel_id": "k2"}, model("1", "b", "c", "k2")),
    ],
)
def test_an_update_changes_what_is_given(
    manager: SessionManager, changes: dict[str, str | None], expected: Any
) -> None:
    manager.save_session("1", "a", "folder", "k1")
    other = manager.save_session("2", "a", "folder", "k1")
    assert manager.update_session("1", **changes) is None  # type: ignore[func-returns-value]
    assert manager.list_sessions() == [expected, other]


def test_an_update_with_nothing_changes_nothing(manager: SessionManager) -> None:
    created = manager.create_session("a", "folder", "k1")
    manager.update_session(created["id"])
    assert manager.list_sessions() == [created]


def test_an_update_needs_an_id(manager: SessionManager) -> None:
    with pytest.raises(TypeError):
        manager.update_session()  # type: ignore[call-arg]


def test_an_update_of_a_missing_session_is_a_404(manager: SessionManager) -> None:
    with pytest.raises(HTTPError) as missing:
        manager.update_session("unknown", name="b")
    assert missing.value.status_code == 404
    assert missing.value.get_message() == "Session not found: session_id='unknown'"
    assert manager.list_sessions() == []


def test_a_deleted_session_is_gone(manager: SessionManager) -> None:
    manager.save_session("1", "a", "", "k1")
    kept = manager.save_session("2", "a", "", "k1")
    assert manager.delete_session("1") is None  # type: ignore[func-returns-value]
    assert manager.list_sessions() == [kept]


def test_deleting_a_missing_session_is_a_404(manager: SessionManager) -> None:
    kept = manager.create_session("a", "")
    with pytest.raises(HTTPError) as missing:
        manager.delete_session("unknown")
    assert missing.value.status_code == 404
    assert missing.value.get_message() == "Session not found: session_id='unknown'"
    assert manager.list_sessions() == [kept]


# Rows


def test_a_plain_row_becomes_a_model(manager: SessionManager) -> None:
    manager.cursor.execute("SELECT session_id, name, path, kernel_id FROM session")
    made = SessionManager.row_factory(manager.cursor, ("1", "a", "folder", "k1"))
    assert made == model("1", "a", "folder", "k1")


def test_the_order_of_columns_is_the_cursors(manager: SessionManager) -> None:
    manager.cursor.execute("SELECT kernel_id, path, name, session_id FROM session")
    made = SessionManager.row_factory(manager.cursor, ("k1", "folder", "a", "1"))
    assert made == model("1", "a", "folder", "k1")


def test_the_row_factory_can_be_given_to_a_connection(manager: SessionManager) -> None:
    saved = manager.save_session("1", "a", "folder", "k1")
    manager.connection.row_factory = SessionManager.row_factory
    assert manager.connection.execute("SELECT * FROM session").fetchall() == [saved]


def test_the_row_factory_is_static() -> None:
    assert isinstance(inspect.getattr_static(SessionManager, "row_factory"), staticmethod)
