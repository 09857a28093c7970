"""The life of a store without faults: each operation, in the order in which servers use it."""

from __future__ import annotations

import asyncio

from nbsessions.models import EndReason, Verb
from nbsessions.stores.base import SessionStore
from support.stores import Stores, ids, recover
from support.values import ENDED_PROCESS, make_owner, make_session, make_start

SERVERS = 20


async def live(stores: Stores) -> None:
    """Let servers open the stores of an empty database, use them, end, crash and recover."""
    await _open_at_once(stores)
    store = await stores.open()
    await _start_and_end(store)
    await _recover(stores, store)
    await _read_again(stores, store)
    await _follow(stores, store)


async def _open_at_once(stores: Stores) -> None:
    owners = [make_owner(f"server-{number}") for number in range(SERVERS)]
    opened = await asyncio.gather(*map(stores.open, owners))
    inserted = await asyncio.gather(
        *(
            store.insert(make_session("a", scope=owner.owner_id))
            for store, owner in zip(opened, owners, strict=True)
        )
    )
    for store, session in zip(opened, inserted, strict=True):
        assert list(await store.list_sessions()) == [session]
    await asyncio.gather(*(asyncio.to_thread(store.close) for store in opened))
    assert stores.rows("SELECT session_id FROM nbsessions_session") == []


async def _start_and_end(store: SessionStore) -> None:
    start = make_start("a")
    assert await store.acquire(start) is None
    session = await store.commit(start.token, make_session("a"))
    assert await store.acquire(make_start("a")) == session
    (renamed,) = await store.rename_document("a", "folder/b")
    assert (renamed.session_id, renamed.path) == (session.session_id, "folder/b")
    assert await store.list_by_document("folder/b") == [renamed]
    release = await store.delete(session.session_id, stop_token="stop")
    assert release.kernel_id == session.kernel_id
    assert [intent.verb for intent in await store.list_intents()] == [Verb.STOP]
    await store.finish_stop("stop")

    ended = await store.insert(make_session("c"))
    await store.end_sessions([ended])
    found = await store.find_endings([session.session_id, ended.session_id])
    assert {key: each.reason for key, each in found.items()} == {ended.session_id: EndReason.ENDED}


async def _recover(stores: Stores, store: SessionStore) -> None:
    """Take over one of the sessions of a server that has crashed."""
    dead = await stores.open(make_owner("dead", process=ENDED_PROCESS))
    kept, lost = [await dead.insert(make_session(path, scope="dead")) for path in "de"]
    await dead.acquire(make_start("f", scope="dead"))
    orphans = await store.find_orphans()
    assert orphans.owners.keys() == {"dead"}
    removed = await recover(store, orphans, [kept.session_id])
    assert ids(removed) == [lost.session_id]
    assert ids(await store.list_sessions()) == [kept.session_id]
    found = await store.find_endings([kept.session_id, lost.session_id])
    assert {key: each.reason for key, each in found.items()} == {lost.session_id: EndReason.DIED}


async def _read_again(stores: Stores, store: SessionStore) -> None:
    """Let a store that has written nothing list what is in the database."""
    reader = await stores.open()
    assert list(await reader.list_sessions()) == list(await store.list_sessions()) != []


async def _follow(stores: Stores, store: SessionStore) -> None:
    """Stop the server while its kernels run on, and let the next one take them over."""
    sessions = await store.list_sessions()
    await store.heartbeat()
    store.close([session.kernel_id for session in sessions])
    following = await stores.open(make_owner("following"))
    orphans = await following.find_orphans()
    assert await recover(following, orphans, ids(orphans.sessions)) == []
    assert ids(await following.list_sessions()) == ids(sessions)
    inserted = await following.insert(make_session("g", scope="following"))
    assert ids(await following.list_sessions()) == [*ids(sessions), inserted.session_id]
