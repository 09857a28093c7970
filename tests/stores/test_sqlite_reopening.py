"""Reads while the writer reopens the file: complete, and never from a file being changed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest
from msgspec.structs import replace

from nbsessions.stores.sqlite.database import Database
from support.store_processes import OtherProcess, lose_the_file_again_and_again
from support.stores import SQLITE_KINDS, Stores, ids, rows
from support.values import make_session

DELETED = 60


@pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)
@pytest.mark.gen_test
async def test_a_list_is_whole_while_a_lost_file_is_written_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open(busy_timeout=0.2)
    kept = [await store.insert(make_session(path)) for path in "ab"]
    reached, opened = threading.Event(), threading.Event()
    open_file = Database.open

    def open_and_wait(database: Database) -> sqlite3.Connection:
        connection = open_file(database)
        reached.set()
        assert opened.wait(20)
        return connection

    monkeypatch.setattr(Database, "open", open_and_wait)
    for suffix in ("", "-wal", "-shm"):
        stores.path.with_name(stores.path.name + suffix).unlink(missing_ok=True)
    writing = asyncio.ensure_future(store.insert(make_session("c")))
    await asyncio.to_thread(reached.wait, 20)
    try:
        assert ids(await store.list_sessions()) == ids(kept)
    finally:
        opened.set()
        added = await writing
    assert ids(await store.list_sessions()) == ids([*kept, added])
    found = rows(stores.path, "SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == ids([*kept, added])


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal", "-shm")], ids=["main", "all"])
def test_a_server_survives_that_its_file_is_deleted_while_it_reads(
    stores: Stores, other: OtherProcess, suffixes: tuple[str, ...]
) -> None:
    # Use a separate process, because reading mapped memory after a truncation would kill it.
    partial, kept, listed = other.ask(
        lose_the_file_again_and_again, stores.path, suffixes, DELETED
    )
    assert partial == []
    assert listed == kept


@pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)
@pytest.mark.gen_test
async def test_each_change_by_another_process_is_read(stores: Stores) -> None:
    store = await stores.open()
    session = await store.insert(make_session())
    for name in ("one.ipynb", "another.ipynb"):
        rows(stores.path, "UPDATE nbsessions_session SET name = ?", name)
        rows(stores.path, "UPDATE nbsessions_namespace SET revision = revision + 1")
        assert await store.find_session(session.session_id) == replace(session, name=name)
