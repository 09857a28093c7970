"""The contract of session stores, continued: why sessions are gone."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nbsessions.errors import InvalidRequest
from nbsessions.models import Changes, EndReason, Session, utcnow
from nbsessions.stores.base import ENDINGS_KEPT_FOR, SessionStore
from support.contract import state
from support.stores import KINDS, turn_back_clock
from support.values import make_id, make_session, make_start, to_kernel

pytestmark = [pytest.mark.parametrize("stores", KINDS, indirect=True), pytest.mark.gen_test]


async def ended(store: SessionStore, path: str = "a.ipynb") -> Session:
    """Return a session that has ended with its kernel."""
    session = await store.insert(make_session(path))
    await store.end_sessions([session])
    return session


async def test_a_session_that_ends_with_its_kernel_is_remembered(store: SessionStore) -> None:
    first, second = [await store.insert(make_session(path)) for path in "ab"]
    before = utcnow()
    await store.end_sessions([first, second])

    endings = await store.find_endings([first.session_id, second.session_id])

    assert endings.keys() == {first.session_id, second.session_id}
    for session_id, ending in endings.items():
        assert (ending.session_id, ending.reason) == (session_id, EndReason.ENDED)
        assert ending.ended is not None
        assert before <= ending.ended <= utcnow()


async def test_only_what_was_asked_for_is_told(store: SessionStore) -> None:
    first, second = await ended(store, "a"), await ended(store, "b")
    assert (await store.find_endings([second.session_id])).keys() == {second.session_id}
    assert first.session_id not in await store.find_endings(["unknown"])
    assert await store.find_endings([]) == {}


async def test_a_session_that_is_there_has_no_ending(store: SessionStore) -> None:
    session = await store.insert(make_session())
    assert await store.find_endings([session.session_id]) == {}


@pytest.mark.parametrize("session_id", ["", "a\0b", "\N{SNOWMAN}" * 1000, "\ud800", "' OR 1"])
async def test_an_odd_id_has_no_ending(store: SessionStore, session_id: str) -> None:
    session = await ended(store)
    found = await store.find_endings([session_id, session.session_id])
    assert found.keys() == {session.session_id}


async def test_a_session_that_is_skipped_is_not_remembered(store: SessionStore) -> None:
    session = await store.insert(make_session())
    await store.update(session.session_id, to_kernel("new"), stop_token=make_id())
    await store.end_sessions([session, make_session("never inserted")])
    await store.delete(session.session_id, stop_token=make_id())
    assert await store.find_endings([session.session_id]) == {}


@pytest.mark.parametrize("force", [False, True])
async def test_a_session_that_a_client_deletes_is_not_remembered(
    store: SessionStore, force: bool
) -> None:
    session = await store.insert(make_session("a"))
    other = await store.insert(make_session("b", kernel_id=session.kernel_id))
    await store.delete(session.session_id, stop_token=make_id(), force=force)
    assert await store.find_endings([session.session_id, other.session_id]) == {}


async def test_a_session_whose_kernel_is_taken_by_force_is_not_remembered(
    store: SessionStore,
) -> None:
    session = await store.insert(make_session("a"))
    other = await store.insert(make_session("b", kernel_id=session.kernel_id))
    change = to_kernel("new")
    await store.update(session.session_id, change, stop_token=make_id(), force=True)
    assert await store.find_session(other.session_id) is None
    assert await store.find_endings([session.session_id, other.session_id]) == {}


@pytest.mark.parametrize("verb", ["insert", "attach", "commit"])
async def test_the_ending_of_an_earlier_session_with_the_same_id_is_forgotten(
    store: SessionStore, verb: str
) -> None:
    earlier = await ended(store)
    again = make_session("b.ipynb", session_id=earlier.session_id)
    if verb == "commit":
        start = make_start("b.ipynb")
        await store.acquire(start)
        await store.commit(start.token, again)
    else:
        await (store.insert if verb == "insert" else store.attach)(again)

    assert await store.find_endings([again.session_id]) == {}

    # Nor is it known why it has gone, once it is deleted.
    await store.delete(again.session_id, stop_token=make_id())
    assert await store.find_endings([again.session_id]) == {}


async def test_an_insertion_that_is_refused_forgets_nothing(store: SessionStore) -> None:
    gone, there = await ended(store), await store.insert(make_session("b"))
    with pytest.raises(InvalidRequest):
        await store.insert(make_session("c", session_id=there.session_id))
    assert (await store.find_endings([gone.session_id])).keys() == {gone.session_id}


async def test_a_session_that_ends_again_has_ended_then(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        turn_back_clock(patch, timedelta(hours=2))
        session = await ended(store)
    again = await store.insert(make_session(session_id=session.session_id))
    await store.end_sessions([again])
    ending = (await store.find_endings([session.session_id]))[session.session_id]
    assert ending.ended is not None
    assert utcnow() - ending.ended < timedelta(hours=1)


@pytest.mark.parametrize("margin", [timedelta(minutes=-1), timedelta(minutes=1)])
async def test_an_ending_is_remembered_for_a_time(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch, margin: timedelta
) -> None:
    with monkeypatch.context() as patch:
        turn_back_clock(patch, ENDINGS_KEPT_FOR + margin)
        session = await ended(store)
    assert bool(await store.find_endings([session.session_id])) == (margin < timedelta())
    # The next one makes no difference to it.
    await ended(store, "b")
    assert bool(await store.find_endings([session.session_id])) == (margin < timedelta())


async def test_asking_changes_nothing(store: SessionStore) -> None:
    gone, there = await ended(store), await store.insert(make_session("b"))
    before = await state(store)
    for _ in range(2):
        found = await store.find_endings([gone.session_id, there.session_id, "unknown"])
        assert found.keys() == {gone.session_id}
    assert await state(store) == before


async def test_a_rename_or_an_update_does_not_make_a_session_end(store: SessionStore) -> None:
    session = await store.insert(make_session("a"))
    await store.update(session.session_id, Changes(path="b"), stop_token=make_id())
    await store.rename_document("b", "c")
    assert await store.find_endings([session.session_id]) == {}
