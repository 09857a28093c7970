"""Faults around PostgreSQL: cut connections, a silent network, and a database that goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from nbsessions.errors import StoreUnavailable, StoreUncertain
from nbsessions.stores.base import SessionStore
from nbsessions.stores.postgres import PostgresSessionStore
from support.postgres import FAST, Cluster, running_cluster, shared_cluster
from support.proxy import Proxy, running_proxy
from support.store_load import running_load
from support.stores import Stores, ids
from support.values import make_id, make_owner, make_session, make_start

pytestmark = [
    pytest.mark.parametrize("stores", ["postgres"], indirect=True),
    pytest.mark.gen_test,
]

LISTED_WITHIN = 2.5
"""Seconds that a list may take on a busy machine while the database is away."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A network between the store and the database."""
    cluster = shared_cluster()
    with running_proxy(cluster.folder / f".s.PGSQL.{cluster.port}") as proxy:
        yield proxy


@pytest.fixture
def stores(stores: Stores, proxy: Proxy) -> Stores:
    stores.url += f"&host=127.0.0.1&port={proxy.port}"
    return stores


# Connections that are cut in a commit


@pytest.mark.parametrize("arrives", [True, False], ids=["kept", "lost"])
async def test_a_write_whose_commit_was_cut_off_is_made_once(
    stores: Stores, proxy: Proxy, arrives: bool
) -> None:
    store = await stores.open()
    before = await store.insert(make_session("a"))
    proxy.cut_at(b"COMMIT", arrives=arrives)
    session = await store.insert(make_session("b"))
    assert proxy.cuts == 1
    assert ids(await store.list_sessions()) == ids([before, session])
    found = stores.rows("SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == ids([before, session])


@pytest.mark.parametrize("arrives", [True, False], ids=["kept", "lost"])
async def test_a_start_whose_commits_were_cut_off_leaves_no_intent(
    stores: Stores, proxy: Proxy, arrives: bool
) -> None:
    store = await stores.open()
    start = make_start("a")
    proxy.cut_at(b"COMMIT", arrives=arrives)
    assert await store.acquire(start) is None
    proxy.cut_at(b"COMMIT", arrives=arrives)
    session = await store.commit(start.token, make_session("a"))
    proxy.cut_at(b"COMMIT", arrives=arrives)
    release = await store.delete(session.session_id, stop_token="stop")
    assert release.kernel_id == session.kernel_id
    assert proxy.cuts == 3
    assert [intent.token for intent in await store.list_intents()] == ["stop"]


async def test_a_connection_that_is_cut_before_the_commit_is_replaced(
    stores: Stores, proxy: Proxy
) -> None:
    store = await stores.open()
    proxy.cut_at(b"INSERT INTO nbsessions_session", arrives=True)
    session = await store.insert(make_session("a"))
    proxy.cut_at(b"SELECT", arrives=False)
    assert ids(await store.list_sessions()) == [session.session_id]
    assert proxy.cuts == 2


async def test_connections_that_were_all_lost_are_replaced_at_once(
    stores: Stores, proxy: Proxy
) -> None:
    store = await stores.open()
    assert isinstance(store, PostgresSessionStore)
    opened = store._database.connection
    with opened(5), opened(5), opened(5):
        pass
    stores.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ?",
        "nbsessions",
    )
    assert await store.list_intents() == []
    await store.ensure_intact()


# Tables that are gone


@pytest.mark.parametrize("shared", ["", "shared"])
async def test_tables_that_somebody_removed_are_made_and_filled_again(
    stores: Stores, shared: str
) -> None:
    owner = make_owner(shared_scope=shared)
    store = await stores.open(owner)
    session = await store.insert(make_session("a", scope=owner.scope))
    remove_tables(stores)
    await store.ensure_intact()
    assert ids(await store.list_sessions()) == [session.session_id]
    remove_tables(stores)
    assert ids(await store.list_sessions()) == [session.session_id]
    other = await store.insert(make_session("b", scope=owner.scope))
    found = stores.rows("SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == [session.session_id, other.session_id]


async def test_without_one_of_its_tables_the_store_is_unavailable(stores: Stores) -> None:
    store = await stores.open()
    remove_tables(stores, "nbsessions_intent")
    with pytest.raises(StoreUnavailable, match="nbsessions_intent"):
        await store.acquire(make_start())
    assert await store.list_sessions() == []


def remove_tables(stores: Stores, pattern: str = "nbsessions_%") -> None:
    select = (
        "SELECT tablename FROM pg_tables WHERE tablename LIKE ? AND schemaname = current_schema"
    )
    tables = [str(row[0]) for row in stores.rows(select, pattern)]
    with psycopg.connect(stores.url) as connection:
        connection.execute(f"DROP TABLE {', '.join(tables)}")  # type: ignore[arg-type]


# A table that somebody has locked


async def test_a_read_that_waits_in_vain_leaves_nothing_behind_in_the_database(
    stores: Stores,
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    with psycopg.connect(stores.url) as locking:
        locking.execute("LOCK TABLE nbsessions_session, nbsessions_namespace")
        for _ in range(3):
            assert ids(await store.list_sessions()) == [session.session_id]
        with pytest.raises(StoreUnavailable):
            await store.count_by_kernel(session.kernel_id)
        waiting = locking.execute(
            """SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND application_name = 'nbsessions' AND %s = ANY(pg_blocking_pids(pid))""",
            (locking.info.backend_pid,),
        )
        assert waiting.fetchall() == []
    assert await store.count_by_kernel(session.kernel_id) == 1


# A silent network


@pytest.mark.alone
async def test_while_the_network_is_silent_lists_come_from_memory_and_writes_fail(
    stores: Stores, proxy: Proxy
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    proxy.stall()
    begun = time.monotonic()
    assert ids(await store.list_sessions()) == [session.session_id]
    assert time.monotonic() - begun < LISTED_WITHIN
    with pytest.raises(StoreUnavailable):
        await store.find_intent("token")
    proxy.flow()
    after = await eventually_insert(store, "b")
    assert ids(await store.list_sessions()) == [session.session_id, after]


@pytest.mark.alone
async def test_nothing_is_lost_or_doubled_when_the_network_is_silent_for_half_a_minute(
    stores: Stores, proxy: Proxy
) -> None:
    store = await stores.open()
    async with running_load(store) as load:
        await load.more()
        proxy.stall()
        await asyncio.sleep(30)
        proxy.flow()
        back = time.monotonic()
        await load.more(1)
        assert time.monotonic() - back < 5
        await load.more()
    assert load.slowest_list < LISTED_WITHIN
    await load.check(stores)


async def eventually_insert(store: SessionStore, path: str) -> str:
    """Insert a session as soon as that works, and return its id."""
    session = make_session(path)
    deadline = time.monotonic() + 30
    while True:
        try:
            return (await store.insert(session)).session_id
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


# A database that goes away


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A database of its own, which syncs its files."""
    with running_cluster(**{**FAST, "synchronous_commit": "on", "fsync": "on"}) as cluster:
        yield cluster


@pytest.mark.alone
async def test_nothing_is_lost_or_doubled_when_the_database_is_killed_again_and_again(
    stores: Stores, cluster: Cluster, tmp_path: Path
) -> None:
    stores.url = cluster.make_schema()
    store = await stores.open()
    kept: list[str] = []
    for _ in range(2):
        writers = [asyncio.ensure_future(insert_many(store, kept)) for _ in range(4)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(cluster.kill)
        for _ in range(3):
            begun = time.monotonic()
            assert set(kept) <= set(ids(await store.list_sessions()))
            assert time.monotonic() - begun < LISTED_WITHIN
        await asyncio.gather(*writers)
        await asyncio.to_thread(cluster.start)
        back = time.monotonic()
        kept.append(await eventually_insert(store, make_id()))
        assert time.monotonic() - back < 5 + LISTED_WITHIN
    found = stores.rows("SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == ids(await store.list_sessions())
    assert set(kept) <= {row[0] for row in found}
    store.close()  # the database ends before the store is closed by the fixture


async def insert_many(store: SessionStore, kept: list[str]) -> None:
    """Insert sessions until that fails, and note those that were acknowledged."""
    try:
        while True:
            kept.append((await store.insert(make_session(make_id()))).session_id)
    except (StoreUnavailable, StoreUncertain):
        pass
