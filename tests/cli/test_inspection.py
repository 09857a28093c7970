"""Reading a store's file from outside: all of it, and without a trace."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from nbsessions.errors import StoreUnavailable
from nbsessions.identity import new_owner
from nbsessions.locks import FileLock
from nbsessions.stores.sqlite import inspection
from nbsessions.stores.sqlite.inspection import examine, read_contents
from nbsessions.stores.sqlite.schema import MIGRATIONS
from nbsessions.stores.sqlite.store import SQLiteSessionStore
from support.values import make_session

NEWEST = len(MIGRATIONS)
LOG = logging.getLogger("nbsessions.tests.cli")

pytestmark = pytest.mark.gen_test


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a folder%3f" / "sessions.db"


@asynccontextmanager
async def opened(file: Path, namespace: str) -> AsyncIterator[tuple[SQLiteSessionStore, str]]:
    """Yield a store and its owner's id."""
    file.parent.mkdir(exist_ok=True)
    store = SQLiteSessionStore(file, namespace, log=LOG)
    owner = new_owner()
    await store.open(owner)
    try:
        yield store, owner.owner_id
    finally:
        store.close()


def copy(file: Path, folder: Path) -> Path:
    """Copy the file as a server that is killed leaves it."""
    for path in file.parent.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder / file.name


def files(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files of a store."""
    return {path.name: path.read_bytes() for path in folder.glob("sessions.db*")}


async def test_sessions_of_all_namespaces_are_read(file: Path) -> None:
    async with opened(file, "/one") as (one, one_id), opened(file, "/two") as (two, two_id):
        first = await one.insert(make_session("a.ipynb", scope=one_id))
        second = await two.insert(make_session("a.ipynb", scope=two_id))

        contents = read_contents(file)

    assert [(each.namespace, each.session) for each in contents.sessions] == [
        ("/one", first),
        ("/two", second),
    ]
    assert [each.namespace for each in contents.owners] == ["/one", "/two"]
    assert [each.dead for each in contents.owners] == [False, False]


async def test_owners_are_told_with_their_scope(file: Path) -> None:
    store = SQLiteSessionStore(file, "/one", log=LOG)
    file.parent.mkdir()
    owner = replace(new_owner(), provider="gateway:http://a", shared_scope="gateway:http://a")
    await store.open(owner)
    try:
        session = await store.insert(make_session(scope=owner.scope))
        contents = read_contents(file)
    finally:
        store.close()
    (found,) = contents.owners
    assert (found.owner.provider, found.owner.scope) == (owner.provider, owner.scope)
    (stored,) = contents.sessions
    assert stored.session == session
    assert contents.owner_of(stored) == found


async def test_a_file_whose_owners_have_no_scope_yet_is_read(file: Path, tmp_path: Path) -> None:
    async with opened(file, "/one") as (store, owner_id):
        session = await store.insert(make_session(scope=owner_id))
        older = copy(file, tmp_path)
    with closing(sqlite3.connect(older)) as connection:
        connection.execute("ALTER TABLE nbsessions_owner DROP COLUMN scope")
    contents = read_contents(older)
    assert [each.session for each in contents.sessions] == [session]
    assert [each.owner.scope for each in contents.owners] == [owner_id]


async def test_who_is_dead_is_told(file: Path, tmp_path: Path) -> None:
    async with opened(file, "/one") as (store, owner_id):
        await store.insert(make_session(scope=owner_id))
        contents = read_contents(copy(file, tmp_path))
    assert [each.dead for each in contents.owners] == [True]
    assert len(contents.sessions) == 1


async def test_a_file_at_rest_is_read_without_a_trace(file: Path) -> None:
    async with opened(file, "/one"):
        pass
    before = {path: path.stat().st_mtime_ns for path in file.parent.iterdir()}

    assert read_contents(file).sessions == ()
    condition = examine(file)

    assert (condition.wal, condition.schema, condition.damage) == (True, NEWEST, None)
    assert {path: path.stat().st_mtime_ns for path in file.parent.iterdir()} == before


async def test_a_file_that_is_being_written_is_not_read(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(file, "/one"):
        pass
    monkeypatch.setattr(inspection, "_BUSY_TIMEOUT", 0.05)
    lock = FileLock(file.with_name("sessions.db.write"))
    assert lock.acquire()
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        read_contents(file)
    lock.close()


async def test_a_copy_that_no_server_has_used_is_read(file: Path, tmp_path: Path) -> None:
    async with opened(file, "/one"):
        pass
    shutil.copyfile(file, tmp_path / "copy.db")
    assert examine(tmp_path / "copy.db").schema == NEWEST
    assert [name for name in os.listdir(tmp_path) if name.startswith("copy.db")] == ["copy.db"]


async def test_a_file_that_is_opened_meanwhile_is_read_with_its_log(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(file, "/one") as (store, owner_id):
        await store.insert(make_session(scope=owner_id))
        answers = iter([False, True])
        monkeypatch.setattr(inspection, "_has_index", lambda path: next(answers))
        assert len(read_contents(file).sessions) == 1


async def test_a_file_whose_server_was_killed_just_after_it_had_made_it_is_read(
    file: Path, tmp_path: Path
) -> None:
    async with opened(file, "/one"):
        copied = copy(file, tmp_path)
    log, index = (copied.with_name(f"sessions.db-{each}") for each in ("wal", "shm"))
    log.write_bytes(log.read_bytes()[:32].ljust(32, b"\0"))
    index.write_bytes(bytes(index.stat().st_size))
    before = files(tmp_path)

    contents = read_contents(copied)

    assert contents.sessions == ()
    assert files(tmp_path) == before


async def test_a_file_that_is_not_there_is_an_error(file: Path) -> None:
    with pytest.raises(StoreUnavailable):
        read_contents(file)
