"""The contract of session stores, as the docstrings of SessionStore describe it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from msgspec.structs import replace

from nbsessions.errors import (
    InvalidRequest,
    KernelConflict,
    SessionNotFound,
    StartInProgress,
    StoreUnavailable,
)
from nbsessions.models import Changes
from nbsessions.stores.base import SessionStore
from support.contract import state, stopped
from support.stores import KINDS, Stores, ids
from support.values import make_id, make_session, make_start, to_kernel

pytestmark = pytest.mark.parametrize("stores", KINDS, indirect=True)


# Reads


@pytest.mark.gen_test
async def test_a_new_store_is_empty(store: SessionStore) -> None:
    assert await state(store) == ([], [])
    assert await store.find_session("unknown") is None
    assert await store.list_by_document("unknown") == []
    assert list(await store.list_by_kernel("unknown")) == []
    assert await store.find_intent("unknown") is None
    assert await store.count_by_kernel("unknown") == 0


@pytest.mark.gen_test
async def test_sessions_are_listed_oldest_first(store: SessionStore) -> None:
    inserted = [await store.insert(make_session(path)) for path in "cab"]
    assert list(await store.list_sessions()) == inserted
    await store.update(inserted[0].session_id, Changes(name="new"), stop_token=make_id())
    assert ids(await store.list_sessions()) == ids(inserted)


@pytest.mark.gen_test
async def test_a_list_is_the_same_object_until_a_session_changes(store: SessionStore) -> None:
    session = await store.insert(make_session("a"))
    first = await store.list_sessions()
    await store.heartbeat()
    assert await store.list_sessions() is first
    await store.update(session.session_id, Changes(name="new"), stop_token=make_id())
    second = await store.list_sessions()
    assert second is not first
    assert list(first) == [session], "what was listed before has changed"
    await store.insert(make_session("b"))
    assert await store.list_sessions() is not second


@pytest.mark.gen_test
async def test_a_session_keeps_every_field(store: SessionStore) -> None:
    session = make_session("/Ordner/ä b%20:\\\n.ipynb", name="", type="a type", kernel_name=None)
    inserted = await store.insert(session)
    assert replace(inserted, seq=0) == session
    assert await store.find_session(session.session_id) == inserted


@pytest.mark.gen_test
async def test_a_null_character_is_kept_or_refused_and_harms_no_other_write(
    store: SessionStore,
) -> None:
    before, odd, after = (make_session(path) for path in ("a", "b\0", "c"))
    outcomes = await asyncio.gather(
        *(store.insert(each) for each in (before, odd, after)), return_exceptions=True
    )
    is_refused = isinstance(outcomes[1], InvalidRequest)
    kept = [before, after] if is_refused else [before, odd, after]
    assert ids(await store.list_sessions()) == ids(kept)


@pytest.mark.gen_test
async def test_a_session_may_have_neither_path_nor_name_nor_type(store: SessionStore) -> None:
    session = await store.insert(make_session(None, name=None, type=None))
    assert await store.find_session(session.session_id) == session


@pytest.mark.gen_test
async def test_the_sessions_of_a_document_are_listed_oldest_first(store: SessionStore) -> None:
    inserted = [await store.insert(make_session(path)) for path in ("/a/b", "a/b", "a/b/")]
    while inserted:
        assert await store.list_by_document("a/b") == inserted
        await store.delete(inserted.pop(0).session_id, stop_token=make_id())
    assert await store.list_by_document("a/b") == []


@pytest.mark.gen_test
async def test_a_session_that_moved_is_the_oldest_where_it_moved_to(store: SessionStore) -> None:
    moved = await store.insert(make_session("a"))
    there = await store.insert(make_session("b"))
    await store.update(moved.session_id, Changes(path="b"), stop_token=make_id())
    assert ids(await store.list_by_document("b")) == ids([moved, there])
    assert await store.list_by_document("a") == []


@pytest.mark.gen_test
async def test_the_sessions_of_a_kernel_are_listed_oldest_first(store: SessionStore) -> None:
    one, other = make_id(), make_id()
    moved = await store.insert(make_session("a", kernel_id=other))
    stays = await store.insert(make_session("b", kernel_id=one))
    await store.update(moved.session_id, to_kernel(one), stop_token=make_id())
    assert ids(await store.list_by_kernel(one)) == ids([moved, stays])
    assert list(await store.list_by_kernel(other)) == []
    await store.delete(stays.session_id, stop_token=make_id())
    assert ids(await store.list_by_kernel(one)) == ids([moved])


@pytest.mark.gen_test
async def test_holders_of_a_kernel_are_counted(store: SessionStore) -> None:
    kernel_id = make_id()
    first = await store.insert(make_session("a", kernel_id=kernel_id))
    await store.insert(make_session("b", kernel_id=kernel_id))
    await store.insert(make_session("c"))
    assert await store.count_by_kernel(kernel_id) == 2
    await store.delete(first.session_id, stop_token=make_id())
    assert await store.count_by_kernel(kernel_id) == 1


# Inserting


@pytest.mark.gen_test
async def test_attaching_to_a_held_document_answers_its_session(store: SessionStore) -> None:
    oldest = await store.insert(make_session("a"))
    await store.insert(make_session("a"))
    before = await state(store)
    assert await store.attach(make_session("/a")) == oldest
    assert await state(store) == before


@pytest.mark.gen_test
async def test_attaching_to_a_free_document_inserts(store: SessionStore) -> None:
    attached = await store.attach(make_session("a"))
    nameless = [await store.attach(make_session(None)) for _ in range(2)]
    assert list(await store.list_sessions()) == [attached, *nameless]


@pytest.mark.gen_test
async def test_inserting_does_not_look_at_the_document(store: SessionStore) -> None:
    inserted = [await store.insert(make_session("a")) for _ in range(2)]
    assert list(await store.list_sessions()) == inserted


@pytest.mark.gen_test
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("verb", ["attach", "insert", "update"])
async def test_a_kernel_on_its_way_out_gets_no_session(
    store: SessionStore, verb: str, finished: bool
) -> None:
    kernel_id = await stopped(store, finished=finished)
    session = await store.insert(make_session("b"))
    before = await state(store)
    if verb == "attach":
        write: Awaitable[object] = store.attach(make_session(kernel_id=kernel_id))
    elif verb == "insert":
        write = store.insert(make_session(kernel_id=kernel_id))
    else:
        write = store.update(session.session_id, to_kernel(kernel_id), stop_token=make_id())
    with pytest.raises(KernelConflict):
        await write
    assert await state(store) == before


@pytest.mark.gen_test
async def test_an_id_is_used_once(store: SessionStore) -> None:
    session = await store.insert(make_session("a"))
    before = await state(store)
    with pytest.raises(InvalidRequest):
        await store.insert(make_session("b", session_id=session.session_id))
    assert await state(store) == before


# Concurrent operations


@pytest.mark.gen_test
async def test_of_many_equal_starts_one_is_granted(store: SessionStore) -> None:
    outcomes = await asyncio.gather(
        *(store.acquire(make_start("a")) for _ in range(20)), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, StartInProgress) for outcome in outcomes) == 19


@pytest.mark.gen_test
async def test_of_many_that_let_go_exactly_one_stops_the_kernel(store: SessionStore) -> None:
    kernel_id = make_id()
    held = [await store.insert(make_session(f"{n}", kernel_id=kernel_id)) for n in range(10)]
    releases = await asyncio.gather(
        *(store.delete(session.session_id, stop_token=make_id()) for session in held)
    )
    assert [release.kernel_id for release in releases].count(kernel_id) == 1
    assert len(await store.list_intents()) == 1


@pytest.mark.gen_test
async def test_one_failing_write_leaves_the_others_alone(store: SessionStore) -> None:
    good = [make_session(f"{n}") for n in range(6)]
    bad = [
        store.delete("unknown", stop_token=make_id()),
        store.insert(make_session("bad", session_id=good[0].session_id)),
    ]
    outcomes = await asyncio.gather(
        *map(store.insert, good[:3]), *bad, *map(store.insert, good[3:]), return_exceptions=True
    )
    assert isinstance(outcomes[3], SessionNotFound)
    assert isinstance(outcomes[4], InvalidRequest)
    assert ids(await store.list_sessions()) == ids(good)


@pytest.mark.gen_test
async def test_cancelling_the_caller_does_not_cancel_the_write(store: SessionStore) -> None:
    session = make_session()
    task = asyncio.ensure_future(store.insert(session))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # Writes are applied in order. When this write is done, so is the cancelled one.
    await store.finish_stop("unknown")
    assert ids(await store.list_sessions()) == [session.session_id]


# Closing


@pytest.mark.gen_test
async def test_closing_again_does_nothing(store: SessionStore) -> None:
    store.close()
    store.close(["unknown"])


@pytest.mark.gen_test
async def test_a_store_that_was_never_opened_can_be_closed(stores: Stores) -> None:
    stores.make().close()


@pytest.mark.gen_test
@pytest.mark.parametrize("closed", [True, False])
async def test_a_store_that_is_not_open_takes_no_writes(stores: Stores, closed: bool) -> None:
    store = stores.make()
    session = make_session("a")
    if closed:
        store = await stores.open()
        await store.insert(session)
        store.close([session.kernel_id])
    for write in (
        store.heartbeat(),
        store.acquire(make_start("a")),
        store.commit("token", make_session()),
        store.drop_start("token"),
        store.attach(make_session("a")),
        store.insert(make_session()),
        store.update(session.session_id, Changes(), stop_token=make_id()),
        store.delete(session.session_id, stop_token=make_id()),
        store.finish_stop("token"),
        store.end_sessions([session]),
        store.end_kernel(session.kernel_id, [session.session_id], stop_token=make_id()),
    ):
        with pytest.raises(StoreUnavailable):
            await write
