"""The contract of session stores, continued: starts and their outcomes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from nbsessions.errors import KernelConflict, StartInProgress, StartLost
from nbsessions.models import Verb
from nbsessions.stores.base import LONGEST_LEASE, SessionStore
from support.contract import state, stopped
from support.stores import KINDS
from support.values import LAPSED, make_id, make_session, make_start

pytestmark = pytest.mark.parametrize("stores", KINDS, indirect=True)


@pytest.mark.gen_test
async def test_acquiring_a_free_document_leaves_the_intent(store: SessionStore) -> None:
    start = make_start(kernel_id=make_id())
    assert await store.acquire(start) is None
    assert await store.find_intent(start.token) == start
    assert list(await store.list_intents()) == [start]


@pytest.mark.gen_test
async def test_acquiring_a_held_document_answers_its_oldest_session(store: SessionStore) -> None:
    oldest = await store.insert(make_session("/a"))
    await store.insert(make_session("a"))
    before = await state(store)
    assert await store.acquire(make_start("a", kernel_id=oldest.kernel_id)) == oldest
    assert await state(store) == before


@pytest.mark.gen_test
async def test_a_document_is_started_once_at_a_time(store: SessionStore) -> None:
    await store.acquire(make_start("a"))
    before = await state(store)
    with pytest.raises(StartInProgress):
        await store.acquire(make_start("a"))
    assert await state(store) == before
    assert await store.acquire(make_start("b")) is None


@pytest.mark.gen_test
async def test_starts_of_no_document_do_not_meet(store: SessionStore) -> None:
    await store.insert(make_session(None))
    assert await store.acquire(make_start(None)) is None
    assert await store.acquire(make_start(None)) is None


# As if the clock had been set back after the start had begun.
SET_BACK = LONGEST_LEASE + timedelta(minutes=1)


@pytest.mark.gen_test
@pytest.mark.parametrize("lease", [LAPSED, SET_BACK])
async def test_a_start_whose_lease_lapsed_is_taken_over(
    store: SessionStore, lease: timedelta
) -> None:
    lapsed, start = make_start("a"), make_start("a")
    await store.acquire(lapsed, lease=lease)
    assert await store.acquire(start) is None
    lost = await store.find_intent(lapsed.token)
    assert lost is not None
    assert lost.verb is Verb.LOST
    assert await store.find_intent(start.token) == start


@pytest.mark.gen_test
async def test_a_kernel_id_in_use_cannot_be_asked_for(store: SessionStore) -> None:
    session = await store.insert(make_session("a"))
    before = await state(store)
    with pytest.raises(KernelConflict):
        await store.acquire(make_start("b", kernel_id=session.kernel_id))
    assert await state(store) == before


@pytest.mark.gen_test
async def test_a_kernel_id_is_asked_for_once(store: SessionStore) -> None:
    kernel_id = make_id()
    await store.acquire(make_start("a", kernel_id=kernel_id))
    with pytest.raises(KernelConflict):
        await store.acquire(make_start("b", kernel_id=kernel_id))


@pytest.mark.gen_test
async def test_a_kernel_id_being_stopped_cannot_be_asked_for(store: SessionStore) -> None:
    kernel_id = await stopped(store)
    with pytest.raises(KernelConflict):
        await store.acquire(make_start(kernel_id=kernel_id))


@pytest.mark.gen_test
async def test_the_id_of_a_stopped_kernel_can_be_asked_for_again(store: SessionStore) -> None:
    kernel_id = await stopped(store, finished=True)
    start = make_start(kernel_id=kernel_id)
    assert await store.acquire(start) is None
    session = make_session(kernel_id=kernel_id)
    assert (await store.commit(start.token, session)).kernel_id == kernel_id
    assert (await store.insert(make_session("b", kernel_id=kernel_id))).kernel_id == kernel_id


@pytest.mark.gen_test
async def test_a_refused_start_does_not_make_a_kernel_attachable(store: SessionStore) -> None:
    kernel_id = await stopped(store, finished=True)
    await store.acquire(make_start("a"))
    before = await state(store)
    with pytest.raises(StartInProgress):
        await store.acquire(make_start("a", kernel_id=kernel_id))
    assert await state(store) == before


@pytest.mark.gen_test
async def test_a_commit_exchanges_the_intent_for_the_session(store: SessionStore) -> None:
    start, session = make_start(), make_session()
    await store.acquire(start)
    committed = await store.commit(start.token, session)
    assert replace(committed, seq=0) == session
    assert await state(store) == ([committed], [])


@pytest.mark.gen_test
async def test_a_commit_counts_after_its_lease_when_nobody_took_over(store: SessionStore) -> None:
    start = make_start()
    await store.acquire(start, lease=LAPSED)
    committed = await store.commit(start.token, make_session())
    assert await state(store) == ([committed], [])


@pytest.mark.gen_test
@pytest.mark.parametrize("taken_over", [True, False])
async def test_a_commit_without_its_start_is_lost(store: SessionStore, taken_over: bool) -> None:
    start, session = make_start("a"), make_session("a")
    if taken_over:
        await store.acquire(start, lease=LAPSED)
        await store.acquire(make_start("a"))
    with pytest.raises(StartLost) as lost:
        await store.commit(start.token, session)
    assert lost.value.winner is None
    intent = await store.find_intent(start.token)
    assert intent is not None
    assert (intent.verb, intent.kernel_id) == (Verb.STOP, session.kernel_id)
    assert list(await store.list_sessions()) == []


@pytest.mark.gen_test
async def test_a_commit_is_lost_when_a_session_holds_the_document(store: SessionStore) -> None:
    start, session = make_start("a"), make_session("/a")
    await store.acquire(start)
    winner = await store.insert(make_session("a"))
    with pytest.raises(StartLost) as lost:
        await store.commit(start.token, session)
    assert lost.value.winner == winner
    assert await state(store) == ([winner], [(start.token, "stop", session.kernel_id)])


@pytest.mark.gen_test
async def test_a_dropped_start_is_gone(store: SessionStore) -> None:
    start = make_start()
    await store.acquire(start)
    await store.drop_start(start.token)
    await store.drop_start(start.token)
    await store.drop_start("unknown")
    assert await state(store) == ([], [])
    assert await store.acquire(make_start()) is None


@pytest.mark.gen_test
async def test_a_start_that_was_taken_over_can_be_dropped(store: SessionStore) -> None:
    lapsed, start = make_start("a"), make_start("a")
    await store.acquire(lapsed, lease=LAPSED)
    await store.acquire(start)
    await store.drop_start(lapsed.token)
    assert list(await store.list_intents()) == [start]


@pytest.mark.gen_test
async def test_dropping_a_start_leaves_a_stop(store: SessionStore) -> None:
    session = await store.insert(make_session())
    await store.delete(session.session_id, stop_token="token")
    await store.drop_start("token")
    assert await state(store) == ([], [("token", "stop", session.kernel_id)])
