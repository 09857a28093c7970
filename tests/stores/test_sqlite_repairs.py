"""Interrupted repairs of damaged files: nothing is lost, and every failure is reported."""

from __future__ import annotations

import functools
import sqlite3
from typing import Any

import pytest

from nbsessions.errors import StoreError, StoreUnavailable
from nbsessions.models import Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.sqlite.transaction import SQLiteTransaction
from support.repairs import DAMAGES, die_at_each_step, spoil
from support.store_processes import OtherProcess
from support.stores import SQLITE_KINDS, Connections, Stores, ids, insert_many, rows
from support.values import make_owner, make_session

pytestmark = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)


class Unreadable(sqlite3.Connection):
    """A connection to a disk that fails when sessions are read."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith("SELECT seq"):
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *parameters)


def fail(transaction: SQLiteTransaction, *arguments: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def check_that_nothing_is_written(store: SessionStore, kept: list[Session]) -> None:
    with pytest.raises(StoreError):
        await store.insert(make_session("long " * 20_000))
    assert ids(await store.list_sessions()) == ids(kept)


@pytest.mark.gen_test
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_repair_for_which_there_is_no_room_changes_nothing(
    stores: Stores, damage: str, connections: Connections
) -> None:
    (await stores.open(make_owner("before"))).close()
    spoil(stores.path, damage)
    spoiled = stores.path.read_bytes()
    connections.full = True
    with pytest.raises(StoreUnavailable, match="full"):
        await stores.open()
    assert stores.path.read_bytes() == spoiled
    assert not list(stores.path.parent.glob("*.damaged-*"))
    assert not list(stores.path.parent.glob("*mend*"))
    connections.full = False
    await stores.open()
    assert spoiled in [path.read_bytes() for path in stores.path.parent.glob("*.damaged-*")]


@pytest.mark.gen_test
async def test_what_cannot_be_read_at_the_moment_is_not_given_up(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open(make_owner("before"))
    kept = await store.insert(make_session(scope="before"))
    store.close([kept.kernel_id])
    spoil(stores.path, "index")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Unreadable))
        with pytest.raises(StoreUnavailable, match="I/O error"):
            await stores.open()
    after = await stores.open(make_owner("after"))
    assert ids((await after.find_orphans()).sessions) == [kept.session_id]


@pytest.mark.gen_test(timeout=120)
async def test_a_server_that_is_killed_in_the_midst_of_a_repair_loses_nothing(
    stores: Stores, other: OtherProcess
) -> None:
    store = await stores.open(make_owner("before"))
    kept = [await store.insert(make_session(path, scope="before")) for path in "ab"]
    store.close([session.kernel_id for session in kept])
    spoil(stores.path, "index")
    outcomes = other.ask(die_at_each_step, stores.path, stores.kind == "sqlite-wal")
    assert len(outcomes) > 20
    for found, log in outcomes:
        assert found == ids(kept)
        assert "was damaged" in log
        assert log.count("with the 2 sessions") == log.count("was damaged")


@pytest.mark.gen_test
@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_we_know_is_written_to_a_mended_file_however_often_that_fails(
    stores: Stores, damage: str, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open()
    kept = await insert_many(store, 100)
    rows(stores.path, "PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(stores.path, damage)
    connections.full = True
    await check_that_nothing_is_written(store, kept)
    connections.full = False
    with monkeypatch.context() as patch:
        patch.setattr(SQLiteTransaction, "restore", fail)
        await check_that_nothing_is_written(store, kept)
        await check_that_nothing_is_written(store, kept)
    added = await store.insert(make_session("new.ipynb"))
    assert ids(await store.list_sessions()) == ids([*kept, added])
    found = rows(stores.path, "SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == ids([*kept, added])
