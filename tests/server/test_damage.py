"""A store that is damaged never keeps a person from their notebooks."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from support.server import Server, StartServer
from support.storefile import find_paths, read_rows, read_store
from support.waiting import wait_until

NOT_A_DATABASE = b"This is not a database. " * 400


def _damage(file: Path, offset: int = 0) -> None:
    """Overwrite what is in the file from the offset on, leaving its size as it is."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(b"\xff" * (file.stat().st_size - offset))


def _works(server: Server) -> None:
    model = server.create("a.ipynb", kernel="python3")
    assert server.execute(model["kernel"]["id"], "6*7") == "42"
    assert [each["id"] for each in server.list_sessions()] == [model["id"]]


@pytest.mark.parametrize("offset", [0, 100, 4096])
def test_a_file_that_was_damaged_is_replaced_at_the_start(
    start_server: StartServer, offset: int
) -> None:
    server = start_server()
    server.create("before.ipynb")
    server.stop()
    _damage(server.store, offset)
    server.allow_errors("was damaged")

    server.start()
    _works(server)

    (error,) = server.log_lines("E")
    assert str(server.store) in error
    (aside,) = server.store.parent.glob("sessions.db.damaged-*")
    assert str(aside) in server.log
    assert [row["path"] for row in read_store(server.store).sessions] == ["a.ipynb"]


def test_a_file_that_was_no_database_is_replaced_at_the_start(start_server: StartServer) -> None:
    server = start_server(start=False)
    server.store.parent.mkdir()
    server.store.write_bytes(NOT_A_DATABASE)
    server.allow_errors("was damaged")

    server.start()
    _works(server)

    (aside,) = server.store.parent.glob("sessions.db.damaged-*")
    assert aside.read_bytes() == NOT_A_DATABASE


def test_a_file_that_another_server_has_open_is_not_moved(start_server: StartServer) -> None:
    first = start_server()
    before = first.create("before.ipynb")
    # It would notice the damage by itself, and wait for a moment when it is alone.
    first.send_signal(signal.SIGSTOP)
    for suffix in ("", "-wal"):
        _damage(first.store.with_name(first.store.name + suffix))
    second = start_server(start=False, data_dir=first.data_dir)
    second.allow_errors("kept in memory")

    second.start()
    _works(second)

    (error,) = second.log_lines("E", "kept in memory")
    assert "damaged" in error
    assert "another server" in error
    assert list(first.store.parent.glob("*.damaged-*")) == []
    first.send_signal(signal.SIGCONT)
    assert second.stop() == 0
    assert [model["id"] for model in first.list_sessions()] == [before["id"]]
    # Alone again, it repairs the file by itself, and writes what it knows.
    first.allow_errors("was damaged")
    wait_until(lambda: list(first.store.parent.glob("*.damaged-*")), "the file is repaired")
    wait_until(
        lambda: (find_paths(first.store) or {}).keys() == {before["id"]},
        "the session is in it",
    )
    first.kill()
    first.start()
    assert [model["id"] for model in first.list_sessions()] == [before["id"]]
    assert first.delete(before["id"]).status == 204
    _works(first)


def test_a_store_of_a_newer_release_is_left_alone(start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    with closing(sqlite3.connect(server.store, isolation_level=None)) as connection:
        connection.execute("UPDATE nbsessions_meta SET value = 1000")
    server.allow_errors("kept in memory")

    server.start()
    _works(server)

    (error,) = server.log_lines("E", "kept in memory")
    assert "Upgrade nbsessions" in error
    rows = read_rows(server.store, "SELECT value FROM nbsessions_meta")
    assert {row["value"] for row in rows} == {1000}


def test_a_folder_that_cannot_be_made_costs_durability_only(start_server: StartServer) -> None:
    server = start_server(start=False)
    server.store.parent.write_text("in the way")
    server.allow_errors("kept in memory")

    server.start()

    _works(server)
    assert len(server.log_lines("E", "kept in memory")) == 1


def test_the_store_is_for_its_user_alone(start_server: StartServer) -> None:
    server = start_server()
    server.create("a.ipynb")

    assert server.store.parent.stat().st_mode & 0o777 == 0o700
    for file in server.store.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
