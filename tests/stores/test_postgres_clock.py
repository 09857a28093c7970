"""A clock of the database that jumps while servers use it."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from nbsessions.errors import StartInProgress, StartLost
from nbsessions.models import EndReason, Verb
from support.stores import Stores, ids
from support.values import make_owner, make_session, make_start

pytestmark = [
    pytest.mark.parametrize("stores", ["postgres"], indirect=True),
    pytest.mark.gen_test,
]

SHARED = "shared"
DAYS = timedelta(days=2)


class Clock:
    """Stands in for ``clock_timestamp()`` in all statements of the stores."""

    def __init__(self, stores: Stores) -> None:
        # PostgreSQL looks for functions in its own schema first, unless the path names it later.
        stores.url += ",pg_catalog"
        self._url = stores.url
        self._execute("CREATE TABLE jump AS SELECT interval '0' AS by")
        self._execute(
            """CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
            AS 'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM jump)'"""
        )

    def jump(self, by: timedelta) -> None:
        """Set the clock forward, or back if ``by`` is negative."""
        self._execute("UPDATE jump SET by = by + %s", by)

    def _execute(self, statement: str, *values: object) -> None:
        with psycopg.connect(self._url) as connection:
            connection.execute(statement, values)  # type: ignore[arg-type]


@pytest.fixture
def clock(stores: Stores) -> Clock:
    return Clock(stores)


async def test_a_start_goes_on_whatever_the_clock_does_if_nobody_else_wants_it(
    stores: Stores, clock: Clock
) -> None:
    store = await stores.open()
    for by in (DAYS, -2 * DAYS):
        start, session = make_start(str(by)), make_session(str(by))
        await store.acquire(start)
        clock.jump(by)
        await store.commit(start.token, session)
    assert len(await store.list_sessions()) == 2
    assert await store.list_intents() == []


@pytest.mark.parametrize("by", [DAYS, -DAYS])
async def test_a_start_from_before_a_jump_is_lost_to_one_from_after_it(
    stores: Stores, clock: Clock, by: timedelta
) -> None:
    one, other = [
        await stores.open(make_owner(name, shared_scope=SHARED)) for name in ("one", "other")
    ]
    before, after = [make_start("a", scope=SHARED) for _ in range(2)]
    await one.acquire(before)
    with pytest.raises(StartInProgress):
        await other.acquire(after)
    clock.jump(by)
    assert await other.acquire(after) is None
    with pytest.raises(StartLost):
        await one.commit(before.token, make_session("a", scope=SHARED))
    session = await other.commit(after.token, make_session("a", scope=SHARED))
    for store in (one, other):
        assert ids(await store.list_sessions()) == [session.session_id]
        # The kernel that was started first is to be stopped.
        assert [intent.verb for intent in await store.list_intents()] == [Verb.STOP]


async def test_an_owner_that_seemed_dead_after_a_jump_puts_its_sessions_back(
    stores: Stores, clock: Clock
) -> None:
    alive = await stores.open(make_owner("alive", boot_id=""))
    session = await alive.insert(make_session("a", scope="alive"))
    observer = await stores.open(make_owner("observer", boot_id=""))
    clock.jump(DAYS)
    orphans = await observer.find_orphans()
    assert "alive" in orphans.owners
    await observer.recover(orphans, ended=[(each, EndReason.DIED) for each in orphans.sessions])
    assert stores.rows("SELECT 1 FROM nbsessions_session") == []
    await alive.ensure_intact()
    assert ids(await alive.list_sessions()) == [session.session_id]
    assert await alive.find_endings([session.session_id]) == {}
    after = await alive.insert(make_session("b", scope="alive"))
    found = stores.rows("SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == [session.session_id, after.session_id]
    assert "alive" not in (await observer.find_orphans()).owners


async def test_a_clock_that_was_set_back_makes_nobody_seem_dead(
    stores: Stores, clock: Clock
) -> None:
    store = await stores.open(make_owner("alive", boot_id=""))
    session = await store.insert(make_session("a", scope="alive"))
    observer = await stores.open(make_owner("observer", boot_id=""))
    clock.jump(-DAYS)
    assert (await observer.find_orphans()).owners == {}
    await store.ensure_intact()
    changed = await store.rename_document("a", "b")
    assert ids(changed) == ids(await store.list_sessions()) == [session.session_id]
