"""The writer: one commit for all queued writes, failures, cancelled callers and closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nbsessions.errors import InvalidRequest, SessionNotFound, StoreUnavailable
from nbsessions.stores.base import SessionStore
from nbsessions.stores.sql.writer import MOST_AT_ONCE
from nbsessions.stores.sqlite import SQLiteSessionStore
from nbsessions.stores.sqlite.transaction import SQLiteTransaction
from support.stores import (
    LOG,
    SQLITE_KINDS,
    Connections,
    Stores,
    WriterGate,
    ids,
    in_background,
    queue,
    revision_of,
    rows,
)
from support.values import make_id, make_owner, make_session

pytestmark = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("count", "batches", "savepoints"), [(50, 1, 50), (MOST_AT_ONCE + 1, 2, MOST_AT_ONCE)]
)
async def test_what_is_queued_is_committed_at_once_unless_it_is_too_much(
    stores: Stores, connections: Connections, count: int, batches: int, savepoints: int
) -> None:
    store, gate = await stores.open(), WriterGate()
    held = await gate.hold(store)
    tasks = await queue([store.insert(make_session(f"{n}")) for n in range(count)])
    revision = revision_of(stores.path)
    connections.statements.clear()
    gate.open()
    await asyncio.gather(held, *tasks)
    # The first commit is that of the operation that held up the others.
    assert connections.statements.count("COMMIT") == 1 + batches
    # One that is alone fails with its transaction.
    assert connections.statements.count("SAVEPOINT operation") == savepoints
    assert revision_of(stores.path) == revision + 1 + batches
    assert len(await store.list_sessions()) == count


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (lambda store: store.delete("unknown", stop_token=make_id()), SessionNotFound),
        (lambda store: store.insert(make_session("\ud800")), InvalidRequest),
    ],
)
async def test_a_failing_operation_does_not_undo_those_committed_with_it(
    stores: Stores,
    fail: Callable[[SessionStore], Any],
    error: type[Exception],
) -> None:
    store, gate = await stores.open(), WriterGate()
    held = await gate.hold(store)
    before, after = make_session("before"), make_session("after")
    tasks = await queue([store.insert(before), fail(store), store.insert(after)])
    gate.open()
    outcomes = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert isinstance(outcomes[2], error)
    assert ids(await store.list_sessions()) == ids([before, after])
    found = rows(stores.path, "SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == ids([before, after])


def write_half(transaction: SQLiteTransaction) -> None:
    transaction.insert(make_session("half"))
    raise SessionNotFound(session_id="unknown")


@pytest.mark.gen_test
async def test_a_failing_operation_leaves_nothing_of_itself(stores: Stores) -> None:
    store, gate = await stores.open(), WriterGate()
    assert isinstance(store, SQLiteSessionStore)
    held, whole = await gate.hold(store), make_session("whole")
    tasks = await queue([store._write(write_half), store.insert(whole), store._write(write_half)])
    gate.open()
    outcomes = await asyncio.gather(held, *tasks, return_exceptions=True)
    assert [isinstance(each, SessionNotFound) for each in outcomes] == [False, True, False, True]
    assert ids(await store.list_sessions()) == ids([whole])
    assert rows(stores.path, "SELECT session_id FROM nbsessions_session") == [(whole.session_id,)]


@pytest.mark.gen_test
@pytest.mark.parametrize("count", [1, 2])
async def test_if_all_operations_fail_nothing_is_written(stores: Stores, count: int) -> None:
    store, gate = await stores.open(), WriterGate()
    assert isinstance(store, SQLiteSessionStore)
    revision = revision_of(stores.path)
    held = await gate.hold(store)
    tasks = await queue([store._write(write_half) for _ in range(count)])
    gate.open()
    await held
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, SessionNotFound) for each in outcomes)
    # That of the operation that held up the others.
    assert revision_of(stores.path) == revision + 1
    assert rows(stores.path, "SELECT * FROM nbsessions_session") == []


@pytest.mark.gen_test
async def test_a_caller_that_is_cancelled_leaves_the_whole_write(stores: Stores) -> None:
    store, gate = await stores.open(), WriterGate()
    held = await gate.hold(store)
    session = make_session("a")
    [inserting] = await queue([store.insert(session)])
    [deleting] = await queue([store.delete(session.session_id, stop_token="stop")])
    for task in (inserting, deleting):
        task.cancel()
    await asyncio.wait([inserting, deleting])
    assert inserting.cancelled()
    assert deleting.cancelled()
    gate.open()
    await held
    await store.heartbeat()
    assert list(await store.list_sessions()) == []
    intent = await store.find_intent("stop")
    assert intent is not None
    assert intent.kernel_id == session.kernel_id


@pytest.mark.gen_test
async def test_a_cancelled_write_that_fails_is_not_complained_about(
    stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    store, gate = await stores.open(), WriterGate()
    held = await gate.hold(store)
    [task] = await queue([store.delete("unknown", stop_token=make_id())])
    task.cancel()
    gate.open()
    await asyncio.gather(held, task, return_exceptions=True)
    del task
    await store.heartbeat()
    assert [record for record in caplog.records if record.name == LOG.name] == []


@pytest.mark.gen_test
async def test_closing_finishes_what_is_queued(stores: Stores) -> None:
    store, gate = await stores.open(), WriterGate()
    held = await gate.hold(store)
    sessions = [make_session(f"{n}") for n in range(5)]
    tasks = await queue([store.insert(session) for session in sessions])
    closing = asyncio.ensure_future(
        asyncio.to_thread(store.close, [session.kernel_id for session in sessions])
    )
    gate.open()
    await asyncio.gather(closing, held, *tasks)
    found = rows(stores.path, "SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == ids(sessions)


@pytest.mark.gen_test
async def test_after_closing_writes_are_refused_and_reads_are_answered_from_memory(
    stores: Stores,
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    store.close([session.kernel_id])
    with pytest.raises(StoreUnavailable):
        await store.insert(make_session("b"))
    with pytest.raises(StoreUnavailable):
        await store.find_intent("token")
    assert list(await store.list_sessions()) == [session]


@pytest.mark.gen_test
async def test_closing_removes_the_sessions_of_kernels_that_are_not_held(stores: Stores) -> None:
    store = await stores.open()
    kept, gone = [await store.insert(make_session(path)) for path in "ab"]
    store.close([kept.kernel_id])
    found = rows(stores.path, "SELECT session_id FROM nbsessions_session")
    assert found == [(kept.session_id,)]
    assert rows(stores.path, "SELECT stopped IS NULL FROM nbsessions_owner") == [(0,)]
    assert not list(stores.path.parent.glob("*.owner-*"))
    assert gone.session_id not in [row[0] for row in found]


def test_a_store_can_be_closed_when_its_loop_is_gone(stores: Stores) -> None:
    async def use() -> tuple[SessionStore, str]:
        store = await stores.open(make_owner())
        return store, (await store.insert(make_session())).kernel_id

    store, kernel_id = asyncio.run(use())
    store.close([kernel_id])
    assert rows(stores.path, "SELECT kernel_id FROM nbsessions_session") == [(kernel_id,)]


@pytest.mark.gen_test
async def test_reads_that_meet_are_answered_together_and_by_a_fresh_look(stores: Stores) -> None:
    store = await stores.open()
    readers = in_background([store.list_sessions() for _ in range(10)])
    session = await store.insert(make_session("a"))
    lists = await asyncio.gather(*(store.list_sessions() for _ in range(10)), *readers)
    assert all(list(listed) == [session] for listed in lists[:10])
