"""The store in PostgreSQL through PgBouncer, which gives each transaction another connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.pgbouncer import Pooler, running_pooler
from support.postgres import shared_cluster
from support.store_life import live
from support.store_load import running_load
from support.store_processes import close_store, hammer, other_process
from support.stores import Stores

pytestmark = pytest.mark.parametrize("stores", ["postgres"], indirect=True)

POOL_SIZE = 2
PROCESSES = 5
"""More than there are connections, so that these change hands."""
ROUNDS = 5
LISTED_WITHIN = 3.5
"""Seconds that a list may take on a busy machine while the pooler is away."""


@pytest.fixture(scope="module")
def pooler() -> Iterator[Pooler]:
    with running_pooler(shared_cluster(), pool_size=POOL_SIZE) as pooler:
        yield pooler


@pytest.fixture
def database() -> str:
    """An empty database. A URL through PgBouncer cannot choose a schema."""
    return shared_cluster().make_database()


@pytest.fixture
def stores(stores: Stores, pooler: Pooler, database: str) -> Stores:
    stores.url = pooler.url_of(database)
    return stores


def connections(database: str) -> int:
    """Return how many connections the pooler has made to the database."""
    select = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s"
    ((count,),) = shared_cluster().execute(select, database)
    assert isinstance(count, int)
    return count


@pytest.mark.gen_test
async def test_all_operations_work_through_a_pooler(stores: Stores, database: str) -> None:
    await live(stores)
    assert connections(database) <= POOL_SIZE


def test_nothing_is_lost_when_processes_share_fewer_connections(
    stores: Stores, database: str
) -> None:
    with ExitStack() as stack:
        others = [stack.enter_context(other_process()) for _ in range(PROCESSES)]
        for number, process in enumerate(others):
            process.tell(hammer, stores.url, f"owner-{number}", ROUNDS)
        kept = [process.answer() for process in others]
        assert [len(each) for each in kept] == [ROUNDS * 3] * PROCESSES
        assert connections(database) <= POOL_SIZE
        others[0].kill()
        for process in others[1:]:
            process.ask(close_store)
    found = stores.rows("SELECT scope, session_id FROM nbsessions_session ORDER BY seq")
    assert found == [("owner-0", session_id) for session_id in kept[0]]
    assert stores.rows("SELECT 1 FROM nbsessions_intent WHERE verb = 'start'") == []


@pytest.mark.alone
@pytest.mark.gen_test
async def test_nothing_is_lost_or_doubled_when_the_pooler_is_killed_again_and_again(
    stores: Stores, pooler: Pooler
) -> None:
    store = await stores.open()
    async with running_load(store) as load:
        for _ in range(3):
            await load.more()
            await asyncio.to_thread(pooler.kill)
            await asyncio.to_thread(pooler.start)
        await load.more()
    await load.check(stores)
    assert load.slowest_list < LISTED_WITHIN
