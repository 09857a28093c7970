"""Moves of everything from a file to a database and back."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from nbsessions.cli.database.stores import open_movable
from nbsessions.errors import KernelConflict, MoveRefused, StoreUnavailable, StoreUncertain
from nbsessions.identity import new_owner
from nbsessions.locks import FileLock
from nbsessions.models import Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.moving import StoredRows, move
from nbsessions.stores.postgres import PostgresSessionStore
from nbsessions.stores.postgres.settings import connection_settings
from nbsessions.stores.sqlite import SQLiteSessionStore
from support.cli import CommandLine
from support.operators import (
    LOG,
    NEWEST,
    PASSWORD,
    administration,
    empty_database,
    make_role,
    make_tables,
    query,
)
from support.postgres import shared_cluster
from support.proxy import running_proxy
from support.server import StartServer
from support.store_processes import OtherProcess, insert, open_store
from support.values import make_id, make_owner, make_session, make_start
from support.waiting import wait_until

ONE, OTHER = "/home/ada", "/home/ada=notebooks/ü '%s'"


@pytest.fixture
def url() -> str:
    """A database without tables."""
    return empty_database()


@pytest.fixture
def cli(start_server: StartServer) -> CommandLine:
    """The command line on a machine without a server."""
    return CommandLine(start_server(start=False))


@pytest.fixture
def role() -> str:
    """A role without any rights."""
    return make_role()


Opener = Callable[[str], SessionStore]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of servers that have crashed, with two namespaces."""
    live, dead = tmp_path / "live", tmp_path / "dead"
    for folder in (live, dead):
        folder.mkdir()

    async def leave() -> None:
        await crash(lambda name: SQLiteSessionStore(live / "s.db", name, log=LOG), copy)

    async def copy() -> None:
        for each in live.iterdir():
            shutil.copyfile(each, dead / each.name)

    asyncio.run(leave())
    return dead / "s.db"


async def crash(open_one: Opener, crashed: Callable[[], Awaitable[None]]) -> None:
    """Write something of everything, and call ``crashed`` at the moment of the crash."""
    stores = [open_one(name) for name in (ONE, OTHER)]
    try:
        for store in stores:
            owner = new_owner()
            await store.open(owner)
            for number in range(12):
                path = None if number == 7 else f"folder {number}/é {number % 3}.ipynb"
                await store.insert(make_session(path, scope=owner.owner_id))
            ended = await store.insert(make_session(scope=owner.owner_id))
            await store.end_sessions([ended])
            start = make_start("new.ipynb", scope=owner.owner_id, kernel_id=make_id())
            assert await store.acquire(start) is None
            deleted = await store.insert(make_session("d.ipynb", scope=owner.owner_id))
            await store.delete(deleted.session_id, stop_token=make_id())
        await crashed()
    finally:
        for store in stores:
            store.close()


def contents(url: str) -> StoredRows:
    with open_movable(url, "--from", log=LOG).reading() as rows:
        return rows


def files(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


def test_everything_is_moved_to_postgres_and_back(
    cli: CommandLine, file: Path, url: str, tmp_path: Path
) -> None:
    back = tmp_path / "back" / "s.db"
    back.parent.mkdir()
    before, source = files(file.parent), contents(f"sqlite://{file}")
    assert source.names == [ONE, OTHER]
    assert [len(source.sessions), len(source.intents), len(source.endings)] == [24, 4, 2]

    moved = cli("database", "move", "--from", f"sqlite://{file}", "--to", url)
    assert (moved.status, moved.err) == (0, "")
    assert "24 sessions, 4 intents, 2 endings and 2 owners" in moved.out
    assert f"  {OTHER} (12 sessions)\n" in moved.out
    assert PASSWORD not in moved.out
    assert files(file.parent) == before
    assert same(contents(url), source)

    assert cli("database", "move", "--from", url, "--to", f"sqlite://{back}").status == 0
    assert same(contents(f"sqlite://{back}"), source)
    assert same(contents(url), source)
    assert back.stat().st_mode & 0o077 == 0


@pytest.mark.gen_test
async def test_sessions_that_servers_share_are_moved_with_the_last_server(
    cli: CommandLine, url: str, tmp_path: Path
) -> None:
    scope, file = "gateway:http://a", tmp_path / "s.db"
    store = SQLiteSessionStore(file, ONE, log=LOG)
    await store.open(replace(new_owner(), provider=scope, shared_scope=scope))
    session = await store.insert(make_session("a.ipynb", scope=scope))
    store.close()
    ran = await asyncio.to_thread(
        cli, "database", "move", "--from", f"sqlite://{file}", "--to", url
    )
    assert ran.status == 0, ran.err
    assert [each.scope for each in contents(url).owners] == [scope]
    other = PostgresSessionStore(connection_settings(url), OTHER, log=LOG)
    await other.open(replace(new_owner(), provider=scope, shared_scope=scope))
    try:
        assert await other.find_unserved(timedelta(0)) == {ONE: {session.kernel_id}}
    finally:
        other.close()


def same(rows: StoredRows, others: StoredRows) -> bool:
    """Return whether both have the same contents. Only sessions and intents have an order."""
    assert rows.sessions == others.sessions
    assert rows.intents == others.intents
    assert set(rows.endings) == set(others.endings)
    assert set(rows.owners) == set(others.owners)
    assert set(rows.namespaces) == set(others.namespaces)
    return True


@pytest.mark.gen_test
async def test_the_next_server_takes_over_what_was_moved(
    cli: CommandLine, file: Path, url: str
) -> None:
    options = ("--namespace", f"{OTHER}=ada", "--namespace", f"{ONE}=another")
    moved = cli("database", "move", "--from", f"sqlite://{file}", "--to", url, *options)
    assert moved.status == 0, moved.err
    source = [each for each in contents(f"sqlite://{file}").sessions if each.namespace == OTHER]
    store = PostgresSessionStore(connection_settings(url), "ada", log=LOG)
    try:
        await store.open(make_owner("next"))
        orphans = await store.find_orphans()
        assert [each.session_id for each in orphans.sessions] == [
            each.session_id for each in source
        ]
        assert len(orphans.intents) == 2
        await store.recover(orphans, adopted=orphans.sessions, undone=orphans.intents)
        sessions = list(await store.list_sessions())
        assert [times(each) for each in sessions] == [
            (each.created, each.last_activity) for each in source
        ]
        with pytest.raises(KernelConflict):
            await store.acquire(make_start("x", kernel_id=source[0].kernel_id, scope="next"))
    finally:
        store.close()
    kernels = query(url, "SELECT COUNT(*) FROM nbsessions_kernel WHERE namespace = 'another'")
    assert kernels == [(14,)]  # of the sessions, of the start and of the stop


def times(session: Session) -> tuple[object, object]:
    return session.created, session.last_activity


def test_a_namespace_of_the_target_is_left_alone(
    cli: CommandLine, file: Path, url: str, tmp_path: Path
) -> None:
    source = f"sqlite://{file}"
    make_tables(url)
    query(url, "INSERT INTO nbsessions_namespace VALUES (%s, 1, 1)", OTHER)
    refused = cli("database", "move", "--from", source, "--to", url)
    assert (refused.status, refused.out) == (1, "")
    assert repr(OTHER) in refused.err
    assert "--namespace OLD=NEW" in refused.err
    assert query(url, "SELECT namespace FROM nbsessions_namespace") == [(OTHER,)]
    assert query(url, "SELECT COUNT(*) FROM nbsessions_session") == [(0,)]
    options = ("--namespace", f"{OTHER}=another=one")
    assert cli("database", "move", "--from", source, "--to", url, *options).status == 0
    found = query(url, "SELECT DISTINCT namespace FROM nbsessions_session ORDER BY 1")
    assert found == [(ONE,), ("another=one",)]
    # The ids of owners are unique in the whole store.
    again = ("--namespace", f"{OTHER}=a", "--namespace", f"{ONE}=b")
    refused = cli("database", "move", "--from", source, "--to", url, *again)
    assert refused.status == 1
    assert "has some of what would be moved already" in refused.err
    assert query(url, "SELECT DISTINCT namespace FROM nbsessions_session ORDER BY 1") == found


def test_a_file_as_target_is_left_alone_too(file: Path, url: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path / 'target.db'}"
    source, other = (open_movable(each, "", log=LOG) for each in (f"sqlite://{file}", target))
    move(source, other)
    before = contents(target)
    for renames in ((), (f"{OTHER}=a",), (f"{OTHER}=a", f"{ONE}=b")):
        with pytest.raises(MoveRefused, match="already"):
            move(source, other, renames)
    assert contents(target) == before


@pytest.mark.parametrize(
    ("renames", "problem"),
    [
        (["mistake=a"], f"{ONE!r}, "),
        ([ONE], "not OLD=NEW"),
        ([f"{ONE}="], "new name is empty"),
        ([f"{ONE}=\udcff"], "not valid Unicode"),
        ([f"{ONE}=a", f"{ONE}=b"], "another name already"),
        ([f"{ONE}=a", f"{OTHER}=a"], "2 namespaces would get the name 'a'"),
        ([f"{ONE}={OTHER}"], "2 namespaces would get the name"),
        ([f"{ONE}={'x' * 256}"], "256 bytes"),
    ],
)
def test_a_name_that_cannot_be_given_is_refused(
    file: Path, url: str, renames: list[str], problem: str
) -> None:
    source, target = (open_movable(each, "", log=LOG) for each in (f"sqlite://{file}", url))
    with pytest.raises(MoveRefused) as refused:
        move(source, target, renames)
    assert problem in str(refused.value)
    with suppress(psycopg.errors.UndefinedTable):
        assert query(url, "SELECT 1 FROM nbsessions_namespace") == []


def test_a_file_of_a_running_server_is_refused(
    cli: CommandLine, other: OtherProcess, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "s.db"
    other.ask(open_store, file, make_owner())
    other.ask(insert, make_session())
    command = ("database", "move", "--from", f"sqlite://{file}", "--to", url)
    refused = cli(*command)
    assert (refused.status, refused.out) == (1, "")
    assert f"{file} is in use by the server" in refused.err
    other.kill()
    assert cli(*command).status == 0
    assert query(url, "SELECT COUNT(*) FROM nbsessions_session") == [(1,)]


@pytest.mark.parametrize("lock", [".lock", "owner"])
def test_one_lock_of_a_server_is_enough_to_refuse(file: Path, url: str, lock: str) -> None:
    source, target = (open_movable(each, "", log=LOG) for each in (f"sqlite://{file}", url))
    held = next(each for each in file.parent.iterdir() if lock in each.name)
    server = FileLock(held)
    assert server.acquire(shared=True) if lock == ".lock" else server.acquire()
    try:
        with pytest.raises(MoveRefused, match="is in use by"):
            move(source, target)
    finally:
        server.close()
    assert move(source, target).sessions


def test_a_copy_without_its_locks_is_moved(file: Path, url: str) -> None:
    for each in file.parent.iterdir():
        if ".owner-" in each.name or each.suffix == ".lock":
            each.unlink()
    source, target = (open_movable(each, "", log=LOG) for each in (f"sqlite://{file}", url))
    assert [each.stopped for each in move(source, target).owners] == [None, None]


def test_no_server_opens_the_file_during_the_move(file: Path) -> None:
    with open_movable(f"sqlite://{file}", "", log=LOG).reading():
        assert not FileLock(file.with_name("s.db.lock")).acquire(shared=True)


def test_a_move_counts_even_if_the_source_is_lost_at_the_end(file: Path, url: str) -> None:
    there, back = open_movable(url, "", log=LOG), file.parent / "back.db"
    moved = move(open_movable(f"sqlite://{file}", "", log=LOG), there)
    with there.reading() as rows:
        open_movable(f"sqlite://{back}", "", log=LOG).write(rows)
        shared_cluster().execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock'"
        )
    assert len(contents(f"sqlite://{back}").sessions) == len(moved.sessions)


@pytest.mark.gen_test
async def test_no_server_writes_to_the_database_during_the_move(url: str) -> None:
    make_tables(url, NEWEST)
    store = PostgresSessionStore(connection_settings(url), "ada", log=LOG)
    try:
        with (
            open_movable(url, "", log=LOG).reading(),
            pytest.raises(StoreUnavailable, match="lock timeout"),
        ):
            await store.open(make_owner("owner"))
        await store.open(make_owner("owner"))
    finally:
        store.close()


@pytest.mark.gen_test
async def test_a_database_of_a_running_server_is_refused(
    cli: CommandLine, url: str, tmp_path: Path
) -> None:
    store = PostgresSessionStore(connection_settings(url), "ada", log=LOG)
    await store.open(make_owner("owner", boot_id=""))
    session = await store.insert(make_session(scope="owner"))
    command = ("database", "move", "--from", url, "--to", f"sqlite://{tmp_path / 's.db'}")
    try:
        refused = cli(*command)
        assert (refused.status, refused.out) == (1, "")
        assert "is in use by the server owner on this-host" in refused.err
        assert not (tmp_path / "s.db").exists()
        query(url, "UPDATE nbsessions_owner SET heartbeat = now() - interval '61 seconds'")
        assert cli(*command).status == 0
    finally:
        store.close()
    rows = contents(f"sqlite://{tmp_path / 's.db'}")
    assert [each.session_id for each in rows.sessions] == [session.session_id]
    # It may be alive, for all that the command can know.
    assert [each.stopped for each in rows.owners] == [None]


def test_a_role_that_does_not_see_all_namespaces_cannot_move(
    cli: CommandLine, url: str, role: str, file: Path, tmp_path: Path
) -> None:
    make_tables(url)
    administration(url).grant("a", role, apply=True)
    own = url.replace("postgres:", f"{role}:")
    for source, target in ((own, f"sqlite://{tmp_path / 't.db'}"), (f"sqlite://{file}", own)):
        refused = cli("database", "move", "--from", source, "--to", target)
        assert refused.status == 1
        assert f"the role '{role}' does not see all namespaces" in refused.err


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE nbsessions_session SET created = 'yesterday' WHERE seq = 3",
        "UPDATE nbsessions_session SET path = CAST(x'ff' AS TEXT) WHERE seq = 3",
        "UPDATE nbsessions_session SET name = 'a' || char(0) || 'b' WHERE seq = 3",
        "UPDATE nbsessions_owner SET heartbeat = '2026-01-01T00:00:00'",
    ],
)
def test_a_row_that_cannot_be_moved_stops_the_whole_move(
    cli: CommandLine, file: Path, url: str, change: str
) -> None:
    connection = sqlite3.connect(file)
    connection.execute(change)
    connection.commit()
    connection.close()
    refused = cli("database", "move", "--from", f"sqlite://{file}", "--to", url)
    assert (refused.status, refused.out) == (1, "")
    assert "cannot be read" in refused.err or "cannot store a text" in refused.err
    assert "Traceback" not in refused.err
    with pytest.raises(psycopg.errors.UndefinedTable):
        query(url, "SELECT 1 FROM nbsessions_session")


def test_tables_of_an_older_release_are_refused(file: Path, url: str, tmp_path: Path) -> None:
    make_tables(url, 1)
    with pytest.raises(MoveRefused, match="database migrate"):
        contents(url)
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").write_bytes(b"")
    with pytest.raises(MoveRefused, match="has schema 0 of session tables"):
        contents(f"sqlite://{tmp_path / 'empty.db'}")
    # As the target, they are migrated.
    move(*(open_movable(each, "", log=LOG) for each in (f"sqlite://{file}", url)))
    assert administration(url).check().schema == NEWEST


def test_an_empty_database_has_nothing_to_move(cli: CommandLine, url: str, tmp_path: Path) -> None:
    make_tables(url)
    ran = cli("database", "move", "--from", url, "--to", f"sqlite://{tmp_path / 's.db'}")
    assert (ran.status, ran.out) == (0, "")
    assert "There is nothing in" in ran.err
    assert not (tmp_path / "s.db").exists()


@pytest.mark.parametrize("arrives", [True, False], ids=["kept", "lost"])
def test_a_move_whose_commit_was_cut_off_is_uncertain_and_whole(
    file: Path, url: str, arrives: bool
) -> None:
    with running_proxy(shared_cluster().socket) as proxy:
        through = f"{url}&host=127.0.0.1&port={proxy.port}"
        proxy.cut_at(b"COMMIT", arrives=arrives)
        with pytest.raises(StoreUncertain, match="not known whether"):
            move(*(open_movable(each, "", log=LOG) for each in (f"sqlite://{file}", through)))
    if arrives:
        wait_until(lambda: administration(url).check().schema, "the move has arrived")
        assert same(contents(url), contents(f"sqlite://{file}"))
    assert administration(url).check().schema == (NEWEST if arrives else 0)


@pytest.mark.gen_test
async def test_a_server_on_this_machine_that_stalls_is_not_taken_for_dead(
    url: str, tmp_path: Path
) -> None:
    store = PostgresSessionStore(connection_settings(url), "ada", log=LOG)
    await store.open(new_owner())
    query(url, "UPDATE nbsessions_owner SET heartbeat = now() - interval '1 day'")
    target = f"sqlite://{tmp_path / 's.db'}"
    try:
        with pytest.raises(MoveRefused, match="is in use by the server"):
            move(*(open_movable(each, "", log=LOG) for each in (url, target)))
    finally:
        store.close()


@pytest.mark.gen_test
async def test_an_owner_whose_process_has_ended_is_moved_as_one_that_stopped(
    url: str, tmp_path: Path
) -> None:
    """In the file, there is nothing else to prove that it is dead."""
    store = PostgresSessionStore(connection_settings(url), "ada", log=LOG)
    await store.open(new_owner())
    target = f"sqlite://{tmp_path / 's.db'}"
    try:
        query(
            url,
            """UPDATE nbsessions_owner SET process = process || '9',
            heartbeat = now() - interval '61 seconds'""",
        )
        move(*(open_movable(each, "", log=LOG) for each in (url, target)))
    finally:
        store.close()
    (owner,) = contents(target).owners
    assert owner.stopped == owner.heartbeat
