"""Owners: which are live, dead or silent, and what happens to their sessions."""

from __future__ import annotations

import errno
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nbsessions.errors import InvalidRequest, KernelConflict, StoreUnavailable
from nbsessions.locks import FileLock
from nbsessions.models import Owner, Session, utcnow
from nbsessions.stores.base import SILENT_KEPT_FOR, SessionStore
from support.store_processes import OtherProcess, close_store, insert, open_store
from support.stores import NAMESPACE, SQLITE_KINDS, Stores, ids, recover, rows
from support.values import make_id, make_owner, make_session, make_start

pytestmark = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)

JUDGE = make_owner("judge")


def lock_file(stores: Stores, owner_id: str) -> Path:
    return stores.path.with_name(f"{stores.path.name}.owner-{owner_id}")


def owners(stores: Stores) -> list[str]:
    return [row[0] for row in rows(stores.path, "SELECT owner FROM nbsessions_owner")]


def open_elsewhere(
    stores: Stores, other: OtherProcess, owner: Owner, namespace: str = NAMESPACE
) -> None:
    other.ask(open_store, stores.path, owner, namespace, stores.kind == "sqlite-wal")


async def leave(stores: Stores, owner: Owner) -> Session:
    """Add a session whose owner has a row, but is not marked as stopped and has no lock."""
    store = await stores.open(owner)
    session = await store.insert(make_session(f"{owner.owner_id}.ipynb", scope=owner.owner_id))
    store.close([session.kernel_id])
    rows(stores.path, "UPDATE nbsessions_owner SET stopped = NULL WHERE owner = ?", owner.owner_id)
    return session


def last_heard(stores: Stores, owner_id: str, ago: timedelta) -> None:
    moment = (utcnow() - ago).isoformat(timespec="microseconds")
    statement = "UPDATE nbsessions_owner SET heartbeat = ? WHERE owner = ?"
    rows(stores.path, statement, moment, owner_id)


async def judged_dead(stores: Stores, judge: Owner = JUDGE) -> tuple[str, ...]:
    store = await stores.open(judge)
    dead = tuple((await store.find_orphans()).owners)
    store.close()
    return tuple(owner_id for owner_id in dead if not owner_id.startswith("judge"))


# Live, dead and silent owners


@pytest.mark.gen_test
async def test_an_owner_whose_process_lives_is_live(stores: Stores, other: OtherProcess) -> None:
    open_elsewhere(stores, other, make_owner("theirs"))
    other.ask(insert, make_session(scope="theirs"))
    last_heard(stores, "theirs", SILENT_KEPT_FOR * 2)
    assert await judged_dead(stores) == ()


@pytest.mark.gen_test
async def test_an_owner_whose_process_was_killed_is_dead(
    stores: Stores, other: OtherProcess
) -> None:
    open_elsewhere(stores, other, make_owner("theirs"))
    session = other.ask(insert, make_session(scope="theirs"))
    store = await stores.open(JUDGE)
    assert (await store.find_orphans()).owners == {}
    other.kill()
    orphans = await store.find_orphans()
    assert orphans.owners.keys() == {"theirs"}
    assert list(orphans.sessions) == [session]


@pytest.mark.gen_test
async def test_an_owner_that_stopped_is_dead(stores: Stores, other: OtherProcess) -> None:
    open_elsewhere(stores, other, make_owner("theirs"))
    held, gone = [other.ask(insert, make_session(path, scope="theirs")) for path in "ab"]
    other.ask(close_store, [held.kernel_id])
    orphans = await (await stores.open(JUDGE)).find_orphans()
    assert orphans.owners.keys() == {"theirs"}
    assert ids(orphans.sessions) == [held.session_id]
    assert gone.session_id not in ids(orphans.sessions)


@pytest.mark.gen_test
async def test_an_owner_that_stopped_leaves_only_intents_about_kernels_that_live_on(
    stores: Stores,
) -> None:
    owner = make_owner("theirs")
    store = await stores.open(owner)
    held = await store.insert(make_session("held.ipynb", scope="theirs"))
    gone = await store.insert(make_session("gone.ipynb", scope="theirs"))
    for session in (held, gone):
        await store.delete(session.session_id, stop_token=f"stop {session.path}")
    await store.acquire(make_start("cut short.ipynb", scope="theirs"))
    store.close([held.kernel_id])
    orphans = await (await stores.open(JUDGE)).find_orphans()
    assert [intent.token for intent in orphans.intents] == ["stop held.ipynb"]


@pytest.mark.gen_test
async def test_an_owner_of_an_earlier_boot_that_has_no_lock_is_dead(stores: Stores) -> None:
    await leave(stores, make_owner("earlier", boot_id="an earlier boot"))
    assert await judged_dead(stores) == ("earlier",)


@pytest.mark.gen_test
async def test_an_owner_of_an_earlier_boot_whose_lock_is_free_is_dead(stores: Stores) -> None:
    await leave(stores, make_owner("earlier", boot_id="an earlier boot"))
    lock_file(stores, "earlier").touch()
    assert await judged_dead(stores) == ("earlier",)


@pytest.mark.gen_test
async def test_hosts_of_one_name_are_told_apart_by_their_locks(
    stores: Stores, other: OtherProcess
) -> None:
    theirs = make_owner("theirs", boot_id="the boot of another localhost")
    open_elsewhere(stores, other, theirs)
    other.ask(insert, make_session(scope="theirs"))
    last_heard(stores, "theirs", SILENT_KEPT_FOR * 2)
    assert await judged_dead(stores) == ()
    other.kill()
    assert await judged_dead(stores, make_owner("judge-2")) == ("theirs",)


@pytest.mark.gen_test
async def test_a_host_that_is_called_something_else_by_now_is_the_same(
    stores: Stores, other: OtherProcess
) -> None:
    open_elsewhere(stores, other, make_owner("theirs", host="before"))
    other.ask(insert, make_session(scope="theirs"))
    assert await judged_dead(stores) == ()
    other.kill()
    assert await judged_dead(stores, make_owner("judge-2")) == ("theirs",)


@pytest.mark.gen_test
async def test_a_lock_that_the_file_system_does_not_know_proves_nothing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(stores, make_owner("theirs"))
    await leave(stores, make_owner("earlier", boot_id="an earlier boot"))
    for owner_id in ("theirs", "earlier"):
        lock_file(stores, owner_id).touch()
    acquire = FileLock.acquire

    def refuse(lock: FileLock, **options: Any) -> bool:
        if lock.path in (lock_file(stores, "theirs"), lock_file(stores, "earlier")):
            raise OSError(errno.ENOLCK, "No locks available")
        return acquire(lock, **options)

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert await judged_dead(stores) == ("earlier",)


@pytest.mark.gen_test
async def test_locks_are_tried_off_the_event_loop(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave(stores, make_owner("theirs"))
    lock_file(stores, "theirs").touch()
    store = await stores.open(JUDGE)
    threads = set()
    is_current = FileLock.is_current

    def note(lock: FileLock) -> bool:
        threads.add(threading.current_thread())
        return is_current(lock)

    monkeypatch.setattr(FileLock, "is_current", note)
    assert (await store.find_orphans()).owners.keys() == {"theirs"}
    assert threads
    assert threading.current_thread() not in threads


@pytest.mark.gen_test
@pytest.mark.parametrize(("theirs", "ours"), [("", "boot"), ("boot", ""), ("", "")])
async def test_a_boot_that_is_not_known_proves_nothing(
    stores: Stores, theirs: str, ours: str
) -> None:
    await leave(stores, make_owner("earlier", boot_id=theirs))
    assert await judged_dead(stores, make_owner("judge", boot_id=ours)) == ()


@pytest.mark.gen_test
async def test_an_owner_of_another_boot_of_another_host_is_silent(stores: Stores) -> None:
    await leave(stores, make_owner("far", host="another host", boot_id="another boot"))
    lock_file(stores, "far").touch()
    assert await judged_dead(stores) == ()


@pytest.mark.gen_test
async def test_an_owner_without_a_lock_file_is_silent(stores: Stores) -> None:
    await leave(stores, make_owner("lost"))
    assert not lock_file(stores, "lost").exists()
    assert await judged_dead(stores) == ()
    assert not lock_file(stores, "lost").exists()


@pytest.mark.gen_test
async def test_an_owner_whose_lock_file_cannot_be_opened_is_silent(stores: Stores) -> None:
    await leave(stores, make_owner("odd"))
    lock_file(stores, "odd").mkdir()
    assert await judged_dead(stores) == ()


@pytest.mark.gen_test
async def test_without_a_lock_of_its_own_nobody_becomes_an_owner(stores: Stores) -> None:
    (await stores.open()).close()
    lock_file(stores, "odd").mkdir()
    with pytest.raises(StoreUnavailable, match="owner-odd"):
        await stores.open(make_owner("odd"))
    assert "odd" not in owners(stores)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "silent",
    [
        make_owner("silent"),
        make_owner("silent", host="another host", boot_id="another boot"),
    ],
)
async def test_an_owner_that_was_silent_for_a_day_counts_as_dead(
    stores: Stores, silent: Owner
) -> None:
    await leave(stores, silent)
    last_heard(stores, "silent", SILENT_KEPT_FOR - timedelta(minutes=1))
    assert await judged_dead(stores) == ()
    last_heard(stores, "silent", SILENT_KEPT_FOR + timedelta(minutes=1))
    assert await judged_dead(stores, make_owner("judge-2")) == ("silent",)


@pytest.mark.gen_test
async def test_a_heartbeat_ends_the_silence(stores: Stores) -> None:
    far = make_owner("far", host="another host", boot_id="another boot")
    store = await stores.open(far)
    last_heard(stores, "far", SILENT_KEPT_FOR * 2)
    await store.heartbeat()
    assert await judged_dead(stores) == ()


@pytest.mark.gen_test
async def test_owners_of_other_namespaces_are_not_judged(stores: Stores) -> None:
    store = await stores.open(make_owner("theirs"), namespace="another namespace")
    session = await store.insert(make_session(scope="theirs"))
    store.close([session.kernel_id])
    assert await judged_dead(stores) == ()


# Owners without sessions and intents


@pytest.mark.gen_test
async def test_an_owner_that_stops_and_leaves_nothing_is_forgotten(stores: Stores) -> None:
    store = await stores.open(make_owner("theirs"))
    session = await store.insert(make_session(scope="theirs"))
    await store.delete(session.session_id, stop_token="stop")
    await store.acquire(make_start(scope="theirs"))
    store.close()
    assert owners(stores) == []


@pytest.mark.gen_test
@pytest.mark.parametrize("left", ["session", "intent"])
async def test_an_owner_that_stops_and_leaves_something_is_remembered(
    stores: Stores, left: str
) -> None:
    store = await stores.open(make_owner("theirs"))
    session = await store.insert(make_session(scope="theirs"))
    if left == "intent":
        await store.delete(session.session_id, stop_token="stop")
    store.close([session.kernel_id])
    assert owners(stores) == ["theirs"]


@pytest.mark.gen_test
async def test_the_dead_of_other_namespaces_are_forgotten_unless_they_left_something(
    stores: Stores, other: OtherProcess
) -> None:
    open_elsewhere(stores, other, make_owner("bare"), "theirs")
    open_elsewhere(stores, other, make_owner("holding"), "theirs")
    other.ask(insert, make_session(scope="holding"))
    (await stores.open(make_owner("judge-1"))).close()
    assert owners(stores) == ["bare", "holding"]
    other.kill()
    (await stores.open(make_owner("judge-2"))).close()
    assert owners(stores) == ["holding"]
    assert not lock_file(stores, "bare").exists()
    assert lock_file(stores, "holding").exists()


@pytest.mark.gen_test
async def test_an_owner_that_was_forgotten_enters_itself_again(stores: Stores) -> None:
    store = await stores.open(make_owner("theirs"))
    rows(stores.path, "DELETE FROM nbsessions_owner")
    await store.heartbeat()
    assert owners(stores) == ["theirs"]


# Two owners on one namespace


async def two(stores: Stores) -> tuple[SessionStore, SessionStore]:
    return await stores.open(make_owner("one")), await stores.open(make_owner("two"))


@pytest.mark.gen_test
async def test_two_owners_see_only_their_own(stores: Stores) -> None:
    one, two_ = await two(stores)
    session = await one.insert(make_session("a", scope="one"))
    start = make_start("b", scope="one")
    await one.acquire(start)
    assert list(await two_.list_sessions()) == []
    assert list(await two_.list_intents()) == []
    assert await two_.find_session(session.session_id) is None
    assert await two_.list_by_document("a") == []
    assert await two_.acquire(make_start("a", scope="two")) is None
    assert await two_.acquire(make_start("b", scope="two")) is None
    theirs = await two_.attach(make_session("a", scope="two"))
    assert list(await two_.list_sessions()) == [theirs]
    assert list(await one.list_sessions()) == [session]


@pytest.mark.gen_test
async def test_holders_of_other_owners_are_not_counted(stores: Stores) -> None:
    one, two_ = await two(stores)
    session = await one.insert(make_session("a", scope="one", kernel_id="shared"))
    await two_.insert(make_session("a", scope="two", kernel_id="shared"))
    assert await one.count_by_kernel("shared") == 1
    release = await one.delete(session.session_id, stop_token=make_id())
    assert release.kernel_id == "shared"
    assert await one.count_by_kernel("shared") == 0


@pytest.mark.gen_test
async def test_ids_of_kernels_and_sessions_are_everybodys(stores: Stores) -> None:
    one, two_ = await two(stores)
    session = await one.insert(make_session("a", scope="one"))
    with pytest.raises(KernelConflict):
        await two_.acquire(make_start("b", scope="two", kernel_id=session.kernel_id))
    with pytest.raises(InvalidRequest):
        await two_.insert(make_session("b", scope="two", session_id=session.session_id))


@pytest.mark.gen_test
async def test_a_namespace_is_nobody_elses_business(stores: Stores) -> None:
    one = await stores.open(make_owner("one"))
    other = await stores.open(make_owner("two"), namespace="another namespace")
    session = await one.insert(make_session("a", scope="one"))
    same_id = make_session("a", scope="two", session_id=session.session_id)
    assert (await other.insert(same_id)).session_id == session.session_id
    await other.delete(session.session_id, stop_token=make_id())
    assert list(await one.list_sessions()) == [session]


# Orphans of dead owners


@pytest.mark.gen_test
async def test_what_the_dead_leave_is_found_whole(stores: Stores) -> None:
    earlier = await stores.open(make_owner("earlier"))
    session = await earlier.insert(make_session("a", scope="earlier"))
    gone = await earlier.insert(make_session("b", scope="earlier"))
    await earlier.delete(gone.session_id, stop_token="stop")
    kernel_id = make_id()
    start = make_start("c", scope="earlier", kernel_id=kernel_id)
    await earlier.acquire(start)
    earlier.close([session.kernel_id, gone.kernel_id, kernel_id])
    store = await stores.open(JUDGE)
    orphans = await store.find_orphans()
    assert orphans.owners.keys() == {"earlier"}
    assert list(orphans.sessions) == [session]
    assert [(each.token, each.verb.value) for each in orphans.intents] == [
        ("stop", "stop"),
        (start.token, "start"),
    ]
    assert list(await store.list_sessions()) == []


@pytest.mark.gen_test
async def test_adopted_sessions_move_into_the_scope_and_the_rest_goes(stores: Stores) -> None:
    earlier = await stores.open(make_owner("earlier"))
    adopted, left = [await earlier.insert(make_session(p, scope="earlier")) for p in "ab"]
    start = make_start("c", scope="earlier")
    await earlier.acquire(start)
    earlier.close([adopted.kernel_id, left.kernel_id])
    store = await stores.open(JUDGE)
    own = await store.insert(make_session("own", scope="judge"))
    orphans = await store.find_orphans()
    removed = await recover(store, orphans, [adopted.session_id])
    assert ids(removed) == [left.session_id]
    listed = await store.list_sessions()
    assert ids(listed) == ids([adopted, own])
    assert {session.scope for session in listed} == {"judge"}
    assert await store.list_by_document("a") == [listed[0]]
    assert await store.find_intent(start.token) is None
    assert (await store.find_orphans()).owners == {}
    assert owners(stores) == ["judge"]


@pytest.mark.gen_test
async def test_an_adopted_session_is_as_good_as_any(stores: Stores) -> None:
    session = await leave(stores, make_owner("earlier", boot_id="an earlier boot"))
    store = await stores.open(JUDGE)
    await recover(store, await store.find_orphans(), [session.session_id])
    release = await store.delete(session.session_id, stop_token=make_id())
    assert release.kernel_id == session.kernel_id
    assert list(await store.list_sessions()) == []


@pytest.mark.gen_test
async def test_of_two_that_settle_one_gets_what_was_left(stores: Stores) -> None:
    session = await leave(stores, make_owner("earlier", boot_id="an earlier boot"))
    one, two_ = await two(stores)
    orphans = [await store.find_orphans() for store in (one, two_)]
    assert orphans[0] == orphans[1]
    await recover(one, orphans[0], [session.session_id])
    assert await recover(two_, orphans[1], [session.session_id]) == []
    assert ids(await one.list_sessions()) == [session.session_id]
    assert list(await two_.list_sessions()) == []


@pytest.mark.gen_test
async def test_the_lock_files_of_the_dead_are_removed(stores: Stores, other: OtherProcess) -> None:
    open_elsewhere(stores, other, make_owner("theirs"))
    other.kill()
    assert lock_file(stores, "theirs").exists()
    store = await stores.open(JUDGE)
    await recover(store, await store.find_orphans())
    assert not lock_file(stores, "theirs").exists()
    assert lock_file(stores, "judge").exists()
