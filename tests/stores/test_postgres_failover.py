"""A database that fails over to its standby, and the store that follows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from support.postgres import FAST, Cluster, running_cluster, running_standby
from support.store_load import running_load
from support.stores import Stores, ids
from support.values import make_owner, make_session, make_start

pytestmark = [
    pytest.mark.parametrize("stores", ["postgres"], indirect=True),
    pytest.mark.gen_test,
]

LISTED_WITHIN = 3.5
"""Seconds that a list may take on a busy machine while there is no primary."""
RIGHT_WITHIN = 5.0 + LISTED_WITHIN
"""Seconds from the promotion of the standby to the next write, on a busy machine."""
SHARED = "shared"
ASYNCHRONOUS = {**FAST, "synchronous_commit": "on"}
SYNCHRONOUS = {**ASYNCHRONOUS, "synchronous_standby_names": "*"}
"""A commit is acknowledged when the standby has it."""


@pytest.fixture
def primary(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with running_cluster(**getattr(request, "param", SYNCHRONOUS)) as cluster:
        yield cluster


@pytest.fixture
def standby(primary: Cluster) -> Iterator[Cluster]:
    with running_standby(primary, **FAST) as cluster:
        yield cluster


@pytest.fixture
def stores(stores: Stores, primary: Cluster, standby: Cluster) -> Iterator[Stores]:
    hosts = f"host={primary.folder},{standby.folder}&port={primary.port},{standby.port}"
    url = f"postgresql://postgres@/postgres?{hosts}&target_session_attrs=read-write"
    stores.url = url
    yield stores
    stores.close()  # before the databases end


@pytest.mark.alone
async def test_nothing_is_lost_or_doubled_when_a_standby_is_promoted_under_load(
    stores: Stores, primary: Cluster, standby: Cluster
) -> None:
    store = await stores.open()
    async with running_load(store) as load:
        await load.more()
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)
        promoted = time.monotonic()
        await load.more(1)
        assert time.monotonic() - promoted < RIGHT_WITHIN
        await load.more()
    await load.check(stores)
    assert load.slowest_list < LISTED_WITHIN


@pytest.mark.parametrize("primary", [ASYNCHRONOUS], indirect=True)
async def test_what_a_late_standby_lacks_is_written_to_it_again(
    stores: Stores, primary: Cluster, standby: Cluster
) -> None:
    store = await stores.open()
    early, deleted = [await store.insert(make_session(path)) for path in "ab"]
    await asyncio.to_thread(primary.wait_for, standby)
    await asyncio.to_thread(standby.stop)
    late = await store.insert(make_session("c"))
    await store.delete(deleted.session_id, stop_token="stop")
    start = make_start("d")
    await store.acquire(start)
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)
    assert len(standby.execute("SELECT 1 FROM nbsessions_session")) == 2

    await store.ensure_intact()

    sessions = [early.session_id, late.session_id]
    assert ids(await store.list_sessions()) == sessions
    rows = standby.execute("SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in rows] == sessions
    assert {intent.token for intent in await store.list_intents()} == {"stop", start.token}
    committed = await store.commit(start.token, make_session("d"))
    assert ids(await store.list_sessions()) == [*sessions, committed.session_id]


@pytest.mark.parametrize("primary", [ASYNCHRONOUS], indirect=True)
async def test_servers_of_one_scope_together_write_what_a_late_standby_lacks(
    stores: Stores, primary: Cluster, standby: Cluster
) -> None:
    one, other = [await stores.open(make_owner(name, shared_scope=SHARED)) for name in ("1", "2")]
    early = await one.insert(make_session("a", scope=SHARED))
    await asyncio.to_thread(primary.wait_for, standby)
    await asyncio.to_thread(standby.stop)
    late = await one.insert(make_session("b", scope=SHARED))
    replaced = await one.insert(make_session("c", scope=SHARED))
    assert replaced in await other.list_sessions()
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.start)
    await asyncio.to_thread(standby.promote)
    new = await stores.open(make_owner("3", shared_scope=SHARED))
    # It does not know that there was one.
    instead = await new.attach(make_session("c", scope=SHARED))

    for store in (one, other):
        await store.ensure_intact()

    sessions = [early.session_id, instead.session_id, late.session_id]
    for store in (one, other, new):
        assert ids(await store.list_sessions()) == sessions
    rows = standby.execute("SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in rows] == sessions
