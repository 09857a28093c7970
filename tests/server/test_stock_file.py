"""A file that jupyter_server's own session manager uses, before and after ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.server import Server, StartServer
from support.storefile import read_rows, read_store, wait_for_rest

OFF = {"nbsessions": False}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite"


@pytest.fixture
def server(start_server: StartServer, file: Path) -> Server:
    """A server that keeps its sessions in the file, ours or stock."""
    return start_server(start=False, arguments=[f"--SessionManager.database_filepath={file}"])


def start_stock(server: Server) -> None:
    """Start the server as it is without us."""
    server.configure({}, OFF)
    server.start()
    assert server.log_lines("I", "nbsessions") == []


def start_ours(server: Server) -> None:
    """Start the server with us, from the same configuration."""
    server.configure({}, {})
    server.start()


def stock_rows(file: Path) -> list[dict[str, Any]]:
    return read_rows(file, "SELECT * FROM session ORDER BY rowid")


def stock_schema(file: Path) -> list[dict[str, Any]]:
    query = "SELECT name, sql FROM sqlite_master WHERE tbl_name NOT LIKE 'nbsessions%'"
    return read_rows(file, query)


def test_ours_takes_over_a_stock_file_and_leaves_its_table_alone(
    server: Server, file: Path
) -> None:
    start_stock(server)
    before = server.create("a.ipynb")
    server.kill()
    rows, schema = stock_rows(file), stock_schema(file)
    assert [row["session_id"] for row in rows] == [before["id"]]

    start_ours(server)
    assert server.list_sessions() == []
    wait_for_rest(file)
    created = server.create("b.ipynb")

    # What stock kept is imported, and ended because its kernel is gone.
    (ended,) = server.log_lines("I", "ended: its kernel")
    assert before["kernel"]["id"] in ended
    assert (stock_rows(file), stock_schema(file)) == (rows, schema)
    assert read_store(file).session_ids() == {created["id"]}


def test_a_stock_file_is_imported_once(server: Server, file: Path) -> None:
    start_stock(server)
    server.create("a.ipynb")
    server.kill()
    start_ours(server)
    assert server.list_sessions() == []
    wait_for_rest(file)
    server.stop()

    start_ours(server)

    assert server.list_sessions() == []
    assert server.log_lines("I", "ended: its kernel") == []
    assert len(stock_rows(file)) == 1


def test_stock_finds_its_rows_again_after_ours(server: Server, file: Path) -> None:
    start_stock(server)
    server.create("a.ipynb")
    server.kill()
    rows = stock_rows(file)
    start_ours(server)
    server.create("b.ipynb")
    server.stop()
    assert stock_rows(file) == rows

    start_stock(server)

    assert server.create("d.ipynb")["path"] == "d.ipynb"
    assert len(server.list_sessions()) == 1


def test_stock_and_ours_take_turns_on_a_file_that_ours_has_made(
    server: Server, file: Path
) -> None:
    start_ours(server)
    before = server.create("a.ipynb")
    server.kill()
    server.kill_kernels()

    start_stock(server)
    created = server.create("b.ipynb")
    assert [model["id"] for model in server.list_sessions()] == [created["id"]]
    assert server.patch(created["id"], {"path": "c.ipynb"}).json()["path"] == "c.ipynb"
    assert server.delete(created["id"]).status == 204
    left = server.create("d.ipynb")
    server.stop()
    assert read_store(file).session_ids() == {before["id"]}

    start_ours(server)
    assert server.list_sessions() == []
    wait_for_rest(file)
    # The row that stock has left behind is imported and ended, too.
    for model in (before, left):
        assert len(server.log_lines("I", f"{model['id']}.* ended: its kernel")) == 1
    assert server.create("a.ipynb")["path"] == "a.ipynb"
    assert server.log_lines("E") == []
