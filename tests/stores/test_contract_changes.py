"""The contract of session stores, continued: updates, deletions and stops of kernels."""

from __future__ import annotations

from datetime import timedelta

import pytest

from nbsessions.errors import KernelConflict, SessionNotFound, StartLost
from nbsessions.models import Changes, EndReason, Orphans, Verb, utcnow
from nbsessions.stores import transaction
from nbsessions.stores.base import ENDED_KEPT_FOR, SessionStore
from support.contract import state
from support.stores import KINDS, ids
from support.values import LAPSED, make_id, make_session, make_start, to_kernel

pytestmark = pytest.mark.parametrize("stores", KINDS, indirect=True)


# Updates


@pytest.mark.gen_test
async def test_an_update_changes_what_is_given(store: SessionStore) -> None:
    before = await store.insert(make_session("a"))
    changes = Changes(path="/b", name="new name", type="console")
    release = await store.update(before.session_id, changes, stop_token=make_id())
    after = release.session
    assert (after.path, after.name, after.type) == ("/b", "new name", "console")
    assert (after.kernel_id, after.created, after.seq) == (
        before.kernel_id,
        before.created,
        before.seq,
    )
    assert release.kernel_id is None
    assert await store.find_session(before.session_id) == after


@pytest.mark.gen_test
async def test_an_update_with_nothing_changes_only_the_last_activity(store: SessionStore) -> None:
    before = await store.insert(make_session(created=utcnow() - timedelta(hours=1)))
    after = (await store.update(before.session_id, Changes(), stop_token=make_id())).session
    assert after.last_activity > before.last_activity
    assert (after.path, after.name, after.type) == (before.path, before.name, before.type)


@pytest.mark.gen_test
async def test_an_update_of_a_missing_session_raises(store: SessionStore) -> None:
    with pytest.raises(SessionNotFound):
        await store.update("unknown", Changes(name="new"), stop_token=make_id())


@pytest.mark.gen_test
async def test_a_kernel_that_an_update_leaves_is_to_be_stopped(store: SessionStore) -> None:
    before = await store.insert(make_session())
    release = await store.update(
        before.session_id, to_kernel("new-kernel", kernel_name="R"), stop_token="stop"
    )
    assert release.kernel_id == before.kernel_id
    assert (release.session.kernel_id, release.session.kernel_name) == ("new-kernel", "R")
    intent = await store.find_intent("stop")
    assert intent is not None
    assert (intent.verb, intent.kernel_id) == (Verb.STOP, before.kernel_id)


@pytest.mark.gen_test
async def test_a_kernel_that_others_hold_survives_an_update(store: SessionStore) -> None:
    before = await store.insert(make_session("a"))
    await store.insert(make_session("b", kernel_id=before.kernel_id))
    release = await store.update(before.session_id, to_kernel("new"), stop_token="stop")
    assert release.kernel_id is None
    assert list(await store.list_intents()) == []


@pytest.mark.gen_test
async def test_a_forced_update_removes_the_other_sessions_of_the_kernel(
    store: SessionStore,
) -> None:
    before = await store.insert(make_session("a"))
    await store.insert(make_session("b", kernel_id=before.kernel_id))
    unrelated = await store.insert(make_session("c"))
    release = await store.update(
        before.session_id, to_kernel("new"), stop_token="stop", force=True
    )
    assert release.kernel_id == before.kernel_id
    assert list(await store.list_sessions()) == [release.session, unrelated]
    assert await store.list_by_document("b") == []


@pytest.mark.gen_test
@pytest.mark.parametrize("force", [False, True])
async def test_a_session_may_be_updated_to_its_own_kernel(
    store: SessionStore, force: bool
) -> None:
    before = await store.insert(make_session())
    release = await store.update(
        before.session_id, to_kernel(before.kernel_id), stop_token=make_id(), force=force
    )
    assert release.kernel_id is None
    assert list(await store.list_intents()) == []


@pytest.mark.gen_test
async def test_a_start_is_exchanged_for_an_updated_kernel(store: SessionStore) -> None:
    session, start = await store.insert(make_session("a")), make_start(None)
    await store.acquire(start)
    await store.update(
        session.session_id, to_kernel("new"), start_token=start.token, stop_token="stop"
    )
    assert await store.find_intent(start.token) is None
    assert await store.count_by_kernel("new") == 1


@pytest.mark.gen_test
async def test_an_update_whose_start_is_gone_is_lost(store: SessionStore) -> None:
    before = await store.insert(make_session())
    with pytest.raises(StartLost):
        await store.update(
            before.session_id, to_kernel("new"), start_token="start", stop_token="stop"
        )
    assert await state(store) == ([before], [("start", "stop", "new")])


@pytest.mark.gen_test
async def test_an_update_of_a_missing_session_keeps_its_start(store: SessionStore) -> None:
    start = make_start(None)
    await store.acquire(start)
    with pytest.raises(SessionNotFound):
        await store.update("unknown", to_kernel("new"), start_token=start.token, stop_token="stop")
    assert list(await store.list_intents()) == [start]


# Deletions


@pytest.mark.gen_test
async def test_a_kernel_that_a_deletion_leaves_is_to_be_stopped(store: SessionStore) -> None:
    session = await store.insert(make_session())
    release = await store.delete(session.session_id, stop_token="stop")
    assert (release.session, release.kernel_id) == (session, session.kernel_id)
    assert list(await store.list_sessions()) == []
    [intent] = await store.list_intents()
    assert (intent.token, intent.verb, intent.kernel_id) == ("stop", Verb.STOP, session.kernel_id)
    assert intent.lease_until is not None
    assert intent.lease_until > utcnow()


@pytest.mark.gen_test
async def test_a_kernel_that_others_hold_survives_a_deletion(store: SessionStore) -> None:
    first = await store.insert(make_session("a"))
    second = await store.insert(make_session("b", kernel_id=first.kernel_id))
    assert (await store.delete(first.session_id, stop_token=make_id())).kernel_id is None
    assert await state(store) == ([second], [])


@pytest.mark.gen_test
async def test_a_forced_deletion_removes_the_other_sessions_of_the_kernel(
    store: SessionStore,
) -> None:
    first = await store.insert(make_session("a"))
    await store.insert(make_session("b", kernel_id=first.kernel_id))
    unrelated = await store.insert(make_session("c"))
    release = await store.delete(first.session_id, stop_token="stop", force=True)
    assert release.kernel_id == first.kernel_id
    assert list(await store.list_sessions()) == [unrelated]


@pytest.mark.gen_test
async def test_deleting_a_missing_session_raises(store: SessionStore) -> None:
    session = await store.insert(make_session())
    await store.delete(session.session_id, stop_token=make_id())
    with pytest.raises(SessionNotFound) as missing:
        await store.delete(session.session_id, stop_token=make_id())
    assert missing.value.looked_for == {"session_id": session.session_id}
    assert len(await store.list_intents()) == 1


# Stops


@pytest.mark.gen_test
async def test_a_finished_stop_is_remembered_for_a_while(store: SessionStore) -> None:
    session = await store.insert(make_session())
    await store.delete(session.session_id, stop_token="stop")
    before = utcnow()
    await store.finish_stop("stop")
    intent = await store.find_intent("stop")
    assert intent is not None
    assert intent.verb is Verb.ENDED
    assert intent.lease_until is not None
    assert before <= intent.lease_until - ENDED_KEPT_FOR <= utcnow()


@pytest.mark.gen_test
async def test_finishing_a_stop_that_is_not_there_does_nothing(store: SessionStore) -> None:
    start = make_start()
    await store.acquire(start)
    await store.finish_stop(start.token)
    await store.finish_stop("unknown")
    assert list(await store.list_intents()) == [start]


@pytest.mark.gen_test
async def test_stops_that_ended_long_ago_are_forgotten(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [await store.insert(make_session(path)) for path in "ab"]
    for session in sessions:
        await store.delete(session.session_id, stop_token=session.session_id)
    monkeypatch.setattr(transaction, "ENDED_KEPT_FOR", LAPSED)
    await store.finish_stop(sessions[0].session_id)
    await store.finish_stop(sessions[1].session_id)
    assert await store.find_intent(sessions[0].session_id) is None


@pytest.mark.gen_test
async def test_a_kernel_that_ended_long_ago_bars_its_id_no_more(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await store.insert(make_session("a"))
    other = await store.insert(make_session("b"))
    await store.delete(session.session_id, stop_token="stop")
    monkeypatch.setattr(transaction, "ENDED_KEPT_FOR", LAPSED)
    await store.finish_stop("stop")
    attached = await store.attach(make_session("c", kernel_id=session.kernel_id))
    changes = to_kernel(session.kernel_id)
    moved = await store.update(other.session_id, changes, stop_token=make_id())
    assert attached.kernel_id == moved.session.kernel_id == session.kernel_id


@pytest.mark.gen_test
async def test_a_lost_start_is_stopped_and_then_remembered(store: SessionStore) -> None:
    lapsed, session = make_start("a"), make_session("a")
    await store.acquire(lapsed, lease=LAPSED)
    await store.acquire(make_start("a"))
    with pytest.raises(StartLost):
        await store.commit(lapsed.token, session)
    await store.finish_stop(lapsed.token)
    with pytest.raises(KernelConflict):
        await store.insert(session)


@pytest.mark.gen_test
async def test_the_sessions_of_kernels_that_are_gone_are_removed(store: SessionStore) -> None:
    a, b, c = [await store.insert(make_session(path)) for path in "abc"]
    shared = await store.insert(make_session("d", kernel_id=a.kernel_id))
    ended = await store.end_sessions([a, c, shared, make_session("e")])
    assert sorted(ids(ended)) == sorted(ids([a, c, shared]))
    assert await state(store) == ([b], [])


@pytest.mark.gen_test
async def test_a_session_that_has_another_kernel_by_now_stays(store: SessionStore) -> None:
    before = await store.insert(make_session("a"))
    changes = to_kernel("new")
    after = await store.update(before.session_id, changes, stop_token=make_id())
    assert list(await store.end_sessions([before])) == []
    assert list(await store.list_sessions()) == [after.session]


@pytest.mark.gen_test
async def test_a_kernel_that_is_being_started_under_its_id_cannot_be_attached(
    store: SessionStore,
) -> None:
    start = make_start("a", kernel_id=make_id())
    await store.acquire(start)
    session, other = make_session("b", kernel_id=start.kernel_id), make_session("c")
    await store.insert(other)
    for attach in (
        store.attach(session),
        store.insert(session),
        store.update(other.session_id, to_kernel(session.kernel_id), stop_token=make_id()),
    ):
        with pytest.raises(KernelConflict):
            await attach
    assert list(await store.list_sessions()) == [await store.find_session(other.session_id)]


@pytest.mark.gen_test
async def test_ending_no_kernel_removes_nothing(store: SessionStore) -> None:
    session = await store.insert(make_session())
    assert list(await store.end_sessions([])) == []
    assert list(await store.list_sessions()) == [session]


@pytest.mark.gen_test
async def test_a_kernel_that_is_ended_is_to_be_stopped_and_takes_its_sessions_along(
    store: SessionStore,
) -> None:
    first, other = [await store.insert(make_session(path)) for path in "ab"]
    second = await store.insert(make_session("c", kernel_id=first.kernel_id))
    both = [first.session_id, second.session_id]
    ended = await store.end_kernel(first.kernel_id, both, stop_token="stop")
    assert ended is not None
    assert sorted(ids(ended)) == sorted(both)
    assert await state(store) == ([other], [("stop", "stop", first.kernel_id)])
    endings = await store.find_endings(both)
    assert [endings[each].reason for each in both] == [EndReason.ENDED] * 2
    with pytest.raises(KernelConflict):
        await store.attach(make_session("d", kernel_id=first.kernel_id))


@pytest.mark.gen_test
async def test_a_kernel_without_sessions_can_be_ended_once(store: SessionStore) -> None:
    kernel_id = make_id()
    assert await store.end_kernel(kernel_id, [], stop_token="stop") == []
    for _ in range(2):
        before = await state(store)
        assert await store.end_kernel(kernel_id, [], stop_token="again") is None
        assert await state(store) == before
        await store.finish_stop("stop")


@pytest.mark.gen_test
async def test_a_kernel_whose_sessions_have_changed_is_not_ended(store: SessionStore) -> None:
    session = await store.insert(make_session("a"))
    before = await state(store)
    for seen in ([], [make_id()], [session.session_id, make_id()]):
        assert await store.end_kernel(session.kernel_id, seen, stop_token="stop") is None
    assert await state(store) == before


@pytest.mark.gen_test
async def test_a_kernel_that_is_being_started_is_not_ended(store: SessionStore) -> None:
    start = make_start("a", kernel_id=make_id())
    await store.acquire(start)
    before = await state(store)
    assert await store.end_kernel(str(start.kernel_id), [], stop_token="stop") is None
    assert await state(store) == before


@pytest.mark.gen_test
async def test_a_store_of_one_owner_has_no_orphans(store: SessionStore) -> None:
    session = await store.insert(make_session())
    orphans = await store.find_orphans()
    assert orphans == Orphans()
    assert list(await store.recover(orphans)) == []
    assert list(await store.list_sessions()) == [session]
