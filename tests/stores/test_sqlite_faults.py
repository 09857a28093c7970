"""Faults around SQLite: full disks, missing permissions, locks and uncertain commits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbsessions.errors import StartLost, StoreUnavailable, StoreUncertain
from nbsessions.models import Changes, Session, Verb
from nbsessions.stores.base import SessionStore
from nbsessions.stores.sqlite import SQLiteSessionStore
from support.store_processes import OtherProcess, let_go, lock_file, lock_rows
from support.stores import (
    NAMESPACE,
    SQLITE_KINDS,
    Connections,
    Stores,
    WriterGate,
    ids,
    queue,
    rows,
)
from support.values import make_id, make_owner, make_session, make_start

pytestmark = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)

LONG = "long " * 20_000
"""More data than fits into the existing pages of the file."""


def beside(stores: Stores, suffix: str) -> Path:
    return stores.path.with_name(stores.path.name + suffix)


async def check_that_all_is_well(stores: Stores, store: SessionStore, expected: list[str]) -> None:
    """Check that the store lists these sessions and accepts new ones, and that the file agrees."""
    assert ids(await store.list_sessions()) == expected
    added = await store.insert(make_session(None))
    found = rows(stores.path, "SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == [*expected, added.session_id]
    assert rows(stores.path, "PRAGMA integrity_check") == [("ok",)]


async def insert_until_it_fails(store: SessionStore) -> list[Session]:
    """Insert sessions until a write fails or is uncertain, and return the inserted sessions."""
    inserted = []
    while True:
        try:
            inserted.append(await store.insert(make_session(LONG)))
        except (StoreUnavailable, StoreUncertain):
            return inserted


# Full disks and missing permissions


@pytest.mark.gen_test
async def test_on_a_full_disk_nothing_is_written_and_reads_go_on(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    kept = await store.insert(make_session("a"))
    connections.full = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="full"):
            await store.insert(make_session(LONG))
        assert list(await store.list_sessions()) == [kept]
        assert await store.count_by_kernel(kept.kernel_id) == 1
    connections.full = False
    await check_that_all_is_well(stores, store, [kept.session_id])


@pytest.mark.gen_test
async def test_a_disk_may_be_full_at_the_commit(stores: Stores) -> None:
    store = await stores.open()
    kept = [await store.insert(make_session("a"))]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
    try:
        kept += await insert_until_it_fails(store)
        assert ids(await store.list_sessions()) == ids(kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await check_that_all_is_well(stores, store, ids(kept))


@pytest.mark.gen_test
async def test_a_commit_that_finds_no_room_is_known_to_be_lost(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    kept = await store.insert(make_session("a"))
    connections.cut_commit = "full"
    with pytest.raises(StoreUnavailable, match="full"):
        await store.insert(make_session("b"))
    assert list(await store.list_sessions()) == [kept]
    await check_that_all_is_well(stores, store, [kept.session_id])


@pytest.mark.gen_test
async def test_in_a_read_only_file_nothing_is_written_and_reads_go_on(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    kept = await store.insert(make_session("a"))
    connections.readonly = True
    with pytest.raises(StoreUnavailable, match="readonly"):
        await store.delete(kept.session_id, stop_token=make_id())
    assert list(await store.list_sessions()) == [kept]
    connections.readonly = False
    await check_that_all_is_well(stores, store, [kept.session_id])


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run the body as a user to whom file permissions apply."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user can access, unlike pytest's own folders."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.gen_test
@pytest.mark.parametrize("made_before", [False, True])
async def test_a_store_that_may_not_be_written_is_not_opened(
    stores: Stores, shared_folder: Path, made_before: bool
) -> None:
    stores.path = shared_folder / "sessions.db"
    if made_before:
        (await stores.open()).close()
    before = os.listdir(shared_folder)
    for path in (*before, "."):
        os.chmod(shared_folder / path, 0o555)
    with unprivileged(), pytest.raises(StoreUnavailable):
        await stores.open()
    assert os.listdir(shared_folder) == before


@pytest.mark.gen_test
async def test_nothing_is_left_open_when_opening_fails(
    stores: Stores, connections: Connections, other: OtherProcess
) -> None:
    (await stores.open()).close()
    connections.readonly = True
    with pytest.raises(StoreUnavailable):
        await stores.open()
    assert other.ask(lock_file, beside(stores, ".lock"), False)
    assert not list(stores.path.parent.glob("*.owner-*"))


# Locked by another process


@pytest.mark.gen_test
async def test_a_write_that_waits_too_long_for_another_process_fails_cleanly(
    stores: Stores, other: OtherProcess
) -> None:
    store = await stores.open(busy_timeout=0.2)
    kept = await store.insert(make_session("a"))
    other.ask(lock_rows, stores.path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.insert(make_session("b"))
        assert list(await store.list_sessions()) == [kept]
    other.ask(let_go)
    await check_that_all_is_well(stores, store, [kept.session_id])


@pytest.mark.gen_test
async def test_a_write_waits_for_another_process(stores: Stores, other: OtherProcess) -> None:
    store = await stores.open(busy_timeout=20)
    other.ask(lock_rows, stores.path)
    write = asyncio.ensure_future(store.insert(make_session("a")))
    assert list(await store.list_sessions()) == []
    assert not write.done()
    other.ask(let_go)
    session = await write
    await check_that_all_is_well(stores, store, [session.session_id])


@pytest.mark.gen_test
async def test_a_write_lock_that_another_process_holds_is_respected(
    stores: Stores, other: OtherProcess
) -> None:
    store = await stores.open(busy_timeout=0.2)
    other.ask(lock_file, beside(stores, ".write"), False)
    with pytest.raises(StoreUnavailable, match="locked by another process"):
        await store.insert(make_session("a"))
    other.ask(let_go)
    await check_that_all_is_well(stores, store, [])


@pytest.mark.gen_test
async def test_a_store_that_is_being_repaired_is_not_opened(
    stores: Stores, other: OtherProcess
) -> None:
    other.ask(lock_file, beside(stores, ".lock"), False)
    with pytest.raises(StoreUnavailable, match="being repaired"):
        await stores.open(busy_timeout=0.1)


@pytest.mark.gen_test
async def test_a_file_that_is_locked_is_not_opened(stores: Stores, other: OtherProcess) -> None:
    (await stores.open()).close()
    other.ask(lock_rows, stores.path)
    with pytest.raises(StoreUnavailable, match="locked"):
        await stores.open(make_owner("late"), busy_timeout=0.1)


# Uncertain commits


@pytest.mark.gen_test
@pytest.mark.parametrize("outcome", ["kept", "lost"])
async def test_after_an_uncertain_insert_the_list_tells_the_truth(
    stores: Stores, connections: Connections, outcome: str
) -> None:
    store = await stores.open()
    before, session = await store.insert(make_session("a")), make_session("b")
    connections.cut_commit = outcome
    with pytest.raises(StoreUncertain):
        await store.insert(session)
    kept = outcome == "kept"
    expected = ids([before, session]) if kept else ids([before])
    assert ids(await store.list_sessions()) == expected
    assert (await store.find_session(session.session_id) is not None) == kept
    assert len(await store.list_by_document("b")) == kept
    assert await store.count_by_kernel(session.kernel_id) == kept
    await check_that_all_is_well(stores, store, expected)


@pytest.mark.gen_test
@pytest.mark.parametrize("outcome", ["kept", "lost"])
async def test_after_an_uncertain_deletion_the_intents_tell_the_truth(
    stores: Stores, connections: Connections, outcome: str
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    connections.cut_commit = outcome
    with pytest.raises(StoreUncertain):
        await store.delete(session.session_id, stop_token="stop")
    intent = await store.find_intent("stop")
    assert (intent is not None) == (outcome == "kept")
    assert len(await store.list_intents()) == (outcome == "kept")
    assert len(await store.list_sessions()) == (outcome == "lost")


@pytest.mark.gen_test
@pytest.mark.parametrize("outcome", ["kept", "lost"])
async def test_after_an_uncertain_commit_of_a_start_one_of_both_is_there(
    stores: Stores, connections: Connections, outcome: str
) -> None:
    store = await stores.open()
    start, session = make_start("a"), make_session("a")
    await store.acquire(start)
    connections.cut_commit = outcome
    with pytest.raises(StoreUncertain):
        await store.commit(start.token, session)
    if outcome == "kept":
        assert await store.find_intent(start.token) is None
        assert ids(await store.list_sessions()) == [session.session_id]
        with pytest.raises(StartLost) as lost:
            await store.commit(start.token, session)
        assert lost.value.winner is not None
        assert lost.value.winner.session_id == session.session_id
    else:
        assert await store.find_intent(start.token) == start
        assert list(await store.list_sessions()) == []
        committed = await store.commit(start.token, session)
        assert list(await store.list_sessions()) == [committed]


@pytest.mark.gen_test
@pytest.mark.parametrize("outcome", ["kept", "lost"])
async def test_after_an_uncertain_start_the_intent_tells_the_truth(
    stores: Stores, connections: Connections, outcome: str
) -> None:
    store = await stores.open()
    start = make_start("a")
    connections.cut_commit = outcome
    with pytest.raises(StoreUncertain):
        await store.acquire(start)
    intent = await store.find_intent(start.token)
    assert (None if intent is None else intent.verb) == (Verb.START if outcome == "kept" else None)


@pytest.mark.gen_test
async def test_an_uncertain_commit_is_uncertain_for_all_that_were_in_it(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    gate = WriterGate()
    held = await gate.hold(store)
    connections.spared, connections.cut_commit = 1, "kept"
    writes = await queue(
        store.update(session_id, Changes(name="new"), stop_token=make_id())
        for session_id in (session.session_id, "unknown")
    )
    gate.open()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    await held
    assert [type(outcome) for outcome in outcomes] == [StoreUncertain, StoreUncertain]
    found = await store.find_session(session.session_id)
    assert found is not None
    assert found.name == "new"


# Closing after errors


@pytest.mark.gen_test
async def test_a_store_that_cannot_sign_off_counts_as_dead_all_the_same(
    stores: Stores, connections: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    connections.readonly = True
    with caplog.at_level(logging.WARNING):
        store.close([session.kernel_id])
    assert "could not be marked as stopped" in caplog.text
    connections.readonly = False
    orphans = await (await stores.open(make_owner("next"))).find_orphans()
    assert ids(orphans.sessions) == [session.session_id]


@pytest.mark.gen_test
async def test_nothing_is_closed_twice_or_left_behind(stores: Stores) -> None:
    store = SQLiteSessionStore(stores.path, NAMESPACE, log=logging.getLogger())
    await store.open(make_owner())
    await store.insert(make_session())
    await store.list_sessions()
    assert open_files(stores.path)
    store.close()
    store.close()
    assert not open_files(stores.path)


def open_files(path: Path) -> list[str]:
    """Return which of the store's files this process has open."""
    found = []
    for descriptor in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/dev/fd/{descriptor}"))
    return [name for name in found if name.startswith(str(path))]
