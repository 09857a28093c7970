"""Which owners of sessions in PostgreSQL are dead, by the clock of the database."""

from __future__ import annotations

import os
from datetime import timedelta

import psycopg
import pytest

from nbsessions.errors import StartLost
from nbsessions.identity import process_key
from nbsessions.models import ABANDONED_AFTER, Owner
from nbsessions.stores.base import SILENT_KEPT_FOR, SessionStore
from nbsessions.stores.postgres.owners import REBOOTED_AFTER, SHARING_KEPT_FOR
from support.stores import Stores, ids
from support.values import BOOT, ENDED_PROCESS, HOST, make_owner, make_session, make_start

pytestmark = [
    pytest.mark.parametrize("stores", ["postgres"], indirect=True),
    pytest.mark.gen_test,
]

MARGIN = timedelta(minutes=1)


def silence(stores: Stores, owner_id: str, by: timedelta) -> None:
    """Let the last heartbeat of an owner be this long ago."""
    change(stores, "UPDATE nbsessions_owner SET heartbeat = heartbeat - %s", by, owner_id)


def set_process(stores: Stores, owner_id: str, process: str) -> None:
    change(stores, "UPDATE nbsessions_owner SET process = %s", process, owner_id)


def change(stores: Stores, statement: str, value: object, owner_id: str) -> None:
    with psycopg.connect(stores.url) as connection:
        connection.execute(f"{statement} WHERE owner = %s", (value, owner_id))  # type: ignore[arg-type]


async def is_dead(stores: Stores, observer: Owner, owner_id: str = "owner-1") -> bool:
    store = await stores.open(observer)
    return owner_id in (await store.find_orphans()).owners


async def leave(stores: Stores, **owner: str) -> SessionStore:
    """Return a store with a session, whose owner does nothing more."""
    store = await stores.open(make_owner("owner-1", **owner))  # type: ignore[arg-type]
    await store.insert(make_session("a", scope=owner.get("shared_scope", "owner-1")))
    return store


@pytest.mark.parametrize(
    "process",
    [
        pytest.param(process_key(os.getpid()), id="this process"),
        pytest.param("", id="unknown"),
        pytest.param("elsewhere 1 1", id="elsewhere"),
    ],
)
@pytest.mark.parametrize("boot_id", [BOOT, ""])
async def test_an_owner_that_may_be_alive_is_not_dead_until_it_was_silent_for_a_day(
    stores: Stores, process: str, boot_id: str
) -> None:
    await leave(stores, boot_id=boot_id)
    set_process(stores, "owner-1", process)
    assert not await is_dead(stores, make_owner("observer"))
    silence(stores, "owner-1", SILENT_KEPT_FOR - MARGIN)
    assert not await is_dead(stores, make_owner("observer"))
    silence(stores, "owner-1", 2 * MARGIN)
    # A process that can be seen is alive, whether or not it sends heartbeats.
    is_seen = boot_id == BOOT and process == process_key(os.getpid())
    assert await is_dead(stores, make_owner("observer")) is not is_seen


async def test_an_owner_whose_process_has_ended_on_this_boot_is_dead(stores: Stores) -> None:
    await leave(stores)
    set_process(stores, "owner-1", ENDED_PROCESS)
    assert await is_dead(stores, make_owner("observer"))
    assert not await is_dead(stores, make_owner("stranger", host="there", boot_id="another"))


async def test_an_owner_of_another_boot_of_this_host_is_dead_once_it_is_silent(
    stores: Stores,
) -> None:
    await leave(stores)
    observer = make_owner("observer", host=HOST, boot_id="another boot")
    # It may be alive on another machine that has the same name.
    assert not await is_dead(stores, observer)
    silence(stores, "owner-1", REBOOTED_AFTER - MARGIN)
    assert not await is_dead(stores, observer)
    silence(stores, "owner-1", 2 * MARGIN)
    assert await is_dead(stores, observer)


async def test_in_a_shared_scope_others_claim_the_intents_of_a_silent_owner(
    stores: Stores,
) -> None:
    silent = await leave(stores, shared_scope="shared", boot_id="")
    start = make_start("b", scope="shared")
    await silent.acquire(start)
    observer = await stores.open(make_owner("observer", shared_scope="shared", boot_id=""))
    silence(stores, "owner-1", SHARING_KEPT_FOR - MARGIN)
    assert not (await observer.find_orphans()).intents
    silence(stores, "owner-1", 2 * MARGIN)
    orphans = await observer.find_orphans()
    assert await observer.claim(orphans.intents) == [start]
    await observer.drop_start(start.token)
    await observer.recover(await observer.find_orphans())
    # It goes on with what it can serve, and its start is lost.
    assert len(await silent.list_sessions()) == 1
    assert await silent.find_intent(start.token) is None
    kept = await silent.insert(make_session("c", scope="shared"))
    assert kept.session_id in ids(await observer.list_sessions())
    assert not (await observer.find_orphans()).owners


async def test_a_start_that_others_have_claimed_cannot_be_committed(stores: Stores) -> None:
    silent = await leave(stores, shared_scope="shared", boot_id="")
    start = make_start("b", scope="shared")
    await silent.acquire(start)
    observer = await stores.open(make_owner("observer", shared_scope="shared", boot_id=""))
    silence(stores, "owner-1", SHARING_KEPT_FOR + MARGIN)
    [claimed] = await observer.claim((await observer.find_orphans()).intents)
    with pytest.raises(StartLost):
        await silent.commit(start.token, make_session("b", scope="shared"))
    assert claimed == start
    assert len(await observer.list_sessions()) == 1


async def test_an_owner_that_others_have_forgotten_brings_no_session_of_a_shared_scope_back(
    stores: Stores,
) -> None:
    silent = await leave(stores, shared_scope="shared", boot_id="")
    [session] = await silent.list_sessions()
    observer = await stores.open(make_owner("observer", shared_scope="shared", boot_id=""))
    silence(stores, "owner-1", SHARING_KEPT_FOR + MARGIN)
    await observer.delete(session.session_id, stop_token="stop")
    await observer.finish_stop("stop")
    await observer.recover(await observer.find_orphans())
    await silent.ensure_intact()
    assert await silent.list_sessions() == await observer.list_sessions() == []
    kept = await silent.insert(make_session("c", scope="shared"))
    assert ids(await observer.list_sessions()) == [kept.session_id]


async def test_what_was_abandoned_for_a_month_is_removed(stores: Stores) -> None:
    await leave(stores, boot_id="")
    silence(stores, "owner-1", ABANDONED_AFTER - MARGIN)
    await stores.open(make_owner("owner-2"))
    assert len(stores.rows("SELECT 1 FROM nbsessions_session")) == 1
    silence(stores, "owner-1", 2 * MARGIN)
    await stores.open(make_owner("owner-3"))
    assert stores.rows("SELECT 1 FROM nbsessions_session") == []
    assert stores.rows("SELECT owner FROM nbsessions_owner ORDER BY owner") == [
        ("owner-2",),
        ("owner-3",),
    ]
