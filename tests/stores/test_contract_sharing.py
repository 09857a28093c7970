"""The contract of session stores, continued: several owners with one shared scope."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nbsessions.errors import KernelConflict, SessionNotFound, StartInProgress, StartLost
from nbsessions.models import Changes, Intent, Kernel, Session, Sharing, Verb
from nbsessions.stores.base import SessionStore
from support.stores import SQL_KINDS, Stores, ids
from support.values import LAPSED, make_id, make_owner, make_session, make_start, to_kernel

pytestmark = [pytest.mark.parametrize("stores", SQL_KINDS, indirect=True), pytest.mark.gen_test]

SHARED = "gateway:http://somewhere"
SHARING = Sharing(document="d/a.ipynb", kernel_name="python3")


async def open_several(stores: Stores, count: int = 2) -> list[SessionStore]:
    """Open the store for several owners that share a scope."""
    owners = [make_owner(f"owner-{number}", shared_scope=SHARED) for number in range(count)]
    return [await stores.open(owner) for owner in owners]


def session_of(path: str, **more: str) -> Session:
    return make_session(path, scope=SHARED, **more)


def start_of(path: str, kernel_id: str | None = None) -> Intent:
    return make_start(path, scope=SHARED, kernel_id=kernel_id)


async def test_all_owners_list_find_change_and_delete_the_same_sessions(stores: Stores) -> None:
    one, other = await open_several(stores)
    session = await one.insert(session_of("a"))
    assert list(await other.list_sessions()) == [session]
    assert await other.list_by_document("a") == [session]
    renamed = await other.update(session.session_id, Changes(path="b"), stop_token=make_id())
    assert list(await one.list_sessions()) == [renamed.session]
    assert await one.list_by_document("a") == []
    await one.delete(session.session_id, stop_token="stop")
    assert await other.find_session(session.session_id) is None
    with pytest.raises(SessionNotFound):
        await other.delete(session.session_id, stop_token=make_id())
    with pytest.raises(KernelConflict):
        await other.insert(session_of("c", kernel_id=session.kernel_id))


async def test_an_owner_without_this_scope_sees_none_of_it(stores: Stores) -> None:
    one, _ = await open_several(stores)
    private = await stores.open(make_owner("private"))
    session = await one.insert(session_of("a"))
    assert list(await private.list_sessions()) == []
    assert await private.find_session(session.session_id) is None
    await private.insert(make_session("a", scope="private"))
    assert list(await one.list_sessions()) == [session]


async def test_only_one_owner_starts_a_kernel_for_a_document(stores: Stores) -> None:
    several = await open_several(stores, 4)
    starts = [start_of("a") for _ in several]
    outcomes = await asyncio.gather(
        *(store.acquire(start) for store, start in zip(several, starts, strict=True)),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(each, StartInProgress) for each in outcomes) == 3
    winner = outcomes.index(None)
    session = await several[winner].commit(starts[winner].token, session_of("a"))
    for store in several:
        assert await store.acquire(start_of("a")) == session


async def test_a_start_that_another_owner_has_taken_over_is_lost(stores: Stores) -> None:
    one, other = await open_several(stores)
    slow, fast = start_of("a"), start_of("a")
    await one.acquire(slow, lease=LAPSED)
    assert await other.acquire(fast) is None
    winner = await other.commit(fast.token, session_of("a"))
    late = session_of("a")
    with pytest.raises(StartLost) as lost:
        await one.commit(slow.token, late)
    assert lost.value.winner == winner
    assert [each.kernel_id for each in await one.list_intents()] == [late.kernel_id]


async def test_a_start_whose_lease_is_renewed_is_not_taken_over(stores: Stores) -> None:
    one, other = await open_several(stores)
    start = start_of("a")
    await one.acquire(start, lease=LAPSED)
    await one.renew(start.token)
    with pytest.raises(StartInProgress):
        await other.acquire(start_of("a"))
    await one.renew("unknown")
    await one.commit(start.token, session_of("a"))
    await one.renew(start.token)
    assert list(await one.list_intents()) == []


async def test_a_kernel_that_several_owners_end_at_once_is_ended_by_one(stores: Stores) -> None:
    several = await open_several(stores, 4)
    session = await several[0].insert(session_of("a"))
    for kernel_id, session_ids in ((session.kernel_id, [session.session_id]), (make_id(), [])):
        outcomes = await asyncio.gather(
            *(store.end_kernel(kernel_id, session_ids, stop_token=make_id()) for store in several)
        )
        assert [ids(each) for each in outcomes if each is not None] == [session_ids]
    assert len(await several[0].list_intents()) == 2


async def test_sessions_stay_when_an_owner_stops(stores: Stores) -> None:
    one, other = await open_several(stores)
    session = await one.insert(session_of("a"))
    one.close()
    assert list(await other.list_sessions()) == [session]
    assert not (await other.find_orphans()).sessions
    other.close()
    third = await stores.open(make_owner("owner-3", shared_scope=SHARED))
    assert list(await third.list_sessions()) == [session]


async def test_an_intent_of_an_owner_that_has_stopped_is_claimed_once(stores: Stores) -> None:
    one, *others = await open_several(stores, 4)
    start, session = start_of("a", make_id()), await one.insert(session_of("b"))
    await one.acquire(start)
    await one.delete(session.session_id, stop_token="stop")
    assert not (await others[0].find_orphans()).intents
    one.close()
    found = [(await store.find_orphans()).intents for store in others]
    for intents in found:
        assert {intent.token for intent in intents} == {start.token, "stop"}
    claimed: list[Sequence[Intent]] = await asyncio.gather(
        *(store.claim(intents) for store, intents in zip(others, found, strict=True))
    )
    assert sorted(each.token for some in claimed for each in some) == sorted([start.token, "stop"])
    for store in others:
        assert not (await store.find_orphans()).intents
    # Whoever has claimed an intent completes it.
    for store, some in zip(others, claimed, strict=True):
        for intent in some:
            if intent.verb is Verb.STOP:
                await store.finish_stop(intent.token)
            else:
                await store.drop_start(intent.token)
    left = [intent.verb for intent in await others[0].list_intents()]
    assert left == [Verb.ENDED]


async def test_a_list_has_what_was_acknowledged_to_anybody_before(stores: Stores) -> None:
    several = await open_several(stores, 3)
    acknowledged: list[str] = []

    async def write(store: SessionStore, name: str) -> None:
        for number in range(10):
            session = await store.insert(session_of(f"{name}-{number}"))
            acknowledged.append(session.session_id)

    async def read(store: SessionStore) -> None:
        while len(acknowledged) < 30:
            before = set(acknowledged)
            assert before <= set(ids(await store.list_sessions()))
            await asyncio.sleep(0)  # a list that comes from the cache does not wait for anything

    await asyncio.gather(
        *(write(store, str(number)) for number, store in enumerate(several)),
        *(read(store) for store in several),
    )
    lists = [ids(await store.list_sessions()) for store in several]
    assert lists[0] == lists[1] == lists[2]
    assert set(lists[0]) == set(acknowledged)


async def test_owners_of_one_scope_share_a_start(stores: Stores) -> None:
    several = await open_several(stores, 4)
    sessions = [session_of(f"d/{make_id()}", name="a.ipynb") for _ in several]
    intents = [make_start(each.document, scope=SHARED) for each in sessions]
    outcomes = await asyncio.gather(
        *(
            store.acquire(intent, sharing=SHARING)
            for store, intent in zip(several, intents, strict=True)
        ),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(each, StartInProgress) for each in outcomes) == 3
    winner = outcomes.index(None)
    session = sessions[winner]
    await several[winner].commit(intents[winner].token, session, sharing=SHARING)
    for store in several:
        found = await store.acquire(make_start("d/x", scope=SHARED), sharing=SHARING)
        assert isinstance(found, Kernel)
        assert found.kernel_id == session.kernel_id


async def test_owners_with_scopes_of_their_own_share_no_start(stores: Stores) -> None:
    one, other = [await stores.open(make_owner(name)) for name in ("one", "other")]
    assert await one.acquire(make_start("d/1", scope="one"), sharing=SHARING) is None
    assert await other.acquire(make_start("d/2", scope="other"), sharing=SHARING) is None


@pytest.mark.parametrize("held", ["session", "start"])
async def test_a_kernel_of_another_namespace_cannot_be_used(stores: Stores, held: str) -> None:
    elsewhere = await stores.open(make_owner("elsewhere"), namespace="elsewhere")
    store = await stores.open()
    kernel_id = make_id()
    if held == "session":
        await elsewhere.insert(make_session("a", scope="elsewhere", kernel_id=kernel_id))
    else:
        await elsewhere.acquire(make_start("a", scope="elsewhere", kernel_id=kernel_id))
    session = await store.insert(make_session("b"))
    before = list(await store.list_sessions())
    for write in (
        store.insert(make_session("a", kernel_id=kernel_id)),
        store.attach(make_session("a", kernel_id=kernel_id)),
        store.update(session.session_id, to_kernel(kernel_id), stop_token=make_id()),
    ):
        with pytest.raises(KernelConflict):
            await write
    assert list(await store.list_sessions()) == before
