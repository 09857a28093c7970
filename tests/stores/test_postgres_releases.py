"""Servers of two releases that share one database while it is upgraded."""

from __future__ import annotations

import psycopg
import pytest

from nbsessions.errors import StoreUnavailable
from nbsessions.models import Owner
from nbsessions.stores.base import SessionStore
from nbsessions.stores.postgres import schema
from support.store_load import running_load
from support.stores import Stores, ids
from support.values import make_owner, make_session

pytestmark = [
    pytest.mark.parametrize("stores", ["postgres"], indirect=True),
    pytest.mark.gen_test,
]

SHARED = "shared"
EARLIER = len(schema.MIGRATIONS) - 1
"""The schema of the release before."""


async def open_earlier(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, owner: Owner, known: int = EARLIER
) -> SessionStore:
    """Open the store as an earlier release does, which knows only so many migrations."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:known])
        return await stores.open(owner)


def version(stores: Stores) -> int:
    ((found,),) = stores.rows("SELECT value FROM nbsessions_meta WHERE key = 'schema'")
    return int(str(found))


async def test_a_server_goes_on_while_one_of_the_next_release_migrates_its_database(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = await open_earlier(stores, monkeypatch, make_owner("earlier", shared_scope=SHARED))
    assert version(stores) == EARLIER
    private = await open_earlier(stores, monkeypatch, make_owner())
    async with running_load(private) as load:
        await load.more()
        before = await earlier.insert(make_session("a", scope=SHARED))
        later = await stores.open(make_owner("later", shared_scope=SHARED))
        assert version(stores) == len(schema.MIGRATIONS)
        assert ids(await later.list_sessions()) == [before.session_id]
        after = await later.insert(make_session("b", scope=SHARED))
        assert ids(await earlier.list_sessions()) == [before.session_id, after.session_id]
        await load.more()
    for session_id in (before.session_id, after.session_id):
        await earlier.delete(session_id, stop_token=session_id)
    await load.check(stores)


async def test_a_server_of_the_release_before_starts_on_a_migrated_database(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stores.open(make_owner("later"))
    earlier = await open_earlier(stores, monkeypatch, make_owner())
    async with running_load(earlier) as load:
        await load.more()
    await load.check(stores)
    assert version(stores) == len(schema.MIGRATIONS)


async def test_a_migration_that_has_to_wait_stops_no_server_for_long(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What follows the first migration has to lock every table.
    earlier = await open_earlier(stores, monkeypatch, make_owner("earlier"), known=1)
    with psycopg.connect(stores.url) as reading:
        reading.execute("SELECT * FROM nbsessions_ending")  # as a backup does
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            await stores.open(make_owner("later"))
        session = await earlier.insert(make_session("a", scope="earlier"))
    assert version(stores) == 1
    later = await stores.open(make_owner("later"))
    assert version(stores) == len(schema.MIGRATIONS)
    assert ids(await earlier.list_sessions()) == [session.session_id]
    assert await later.list_sessions() == []
