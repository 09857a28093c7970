"""One bad row in the file is one bad row, for a running server and for the next one."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from support.cli import CommandLine
from support.server import StartServer


@pytest.mark.parametrize(
    "change", ["created = 'yesterday'", "name = CAST(X'FF41' AS TEXT)", "path = X'00'"]
)
def test_one_bad_row_is_one_bad_row(start_server: StartServer, change: str) -> None:
    server = start_server()
    good, bad = server.create("good.ipynb"), server.create("bad.ipynb")
    with closing(sqlite3.connect(server.store, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            f"UPDATE nbsessions_session SET {change} WHERE session_id = ?", (bad["id"],)
        )
        connection.execute("UPDATE nbsessions_namespace SET revision = revision + 1")
        connection.execute("COMMIT")

    for start in (False, True):
        if start:
            server.kill()
            server.start()
        assert [each["id"] for each in server.list_sessions()] == [good["id"]]
        assert server.patch(good["id"], {"name": "a name"}).status == 200
        assert server.get(bad["id"]).status == 404
        assert server.delete(server.create("new.ipynb")["id"]).status == 204
        assert len(server.log_lines("W", "has a row that cannot be read")) == 1

    cli = CommandLine(server)
    assert "cannot be read and are left out: 1 (" in cli("doctor").out
    assert cli.paths() == ["good.ipynb"]
