"""Commits that the event loop does not know of yet: reads that come then, and their results."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from nbsessions.errors import StoreError
from nbsessions.models import Changes, Intent, Session
from nbsessions.stores.cache import SessionCache
from nbsessions.stores.sql import writer as writer_module
from nbsessions.stores.sql.store import SQLSessionStore
from nbsessions.stores.sql.writer import BatchWriter
from support.services import eventually
from support.stores import SQL_KINDS, Stores, WriterGate, ids, queue
from support.values import make_id, make_owner, make_session, make_start

pytestmark = [pytest.mark.parametrize("stores", SQL_KINDS, indirect=True), pytest.mark.gen_test]


@pytest.fixture(autouse=True)
def _is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reads wait for longer than a test takes."""
    monkeypatch.setattr(writer_module, "_DELIVERY_TIMEOUT", 300.0)


class HeldUp:
    """The writers' threads wait after each commit. They may also fail there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._committed = threading.Event()
        self._go_on = threading.Event()
        self._error: Exception | None = None
        remember = BatchWriter._remember

        def wait_and_remember(*arguments: Any) -> None:
            self._committed.set()
            self._go_on.wait(30)
            if self._error is not None:
                raise self._error
            remember(*arguments)

        monkeypatch.setattr(BatchWriter, "_remember", wait_and_remember)

    async def reached(self) -> None:
        """Wait until a thread has committed something."""
        await asyncio.to_thread(self._committed.wait, 30)

    def go_on(self, error: Exception | None = None) -> None:
        self._error = error
        self._go_on.set()


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the contents of caches were replaced with."""
    found: list[object] = []
    replace = SessionCache.replace

    def replace_and_note(cache: SessionCache, *read: Any) -> bool:
        found.append(read)
        return replace(cache, *read)

    monkeypatch.setattr(SessionCache, "replace", replace_and_note)
    return found


async def test_they_wait_for_it_and_do_not_read_all_sessions_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, replaced: list[object]
) -> None:
    store = await stores.open()
    first, second = make_session("a"), make_session("b")
    await store.insert(first)
    assert ids(await store.list_sessions()) == ids([first])
    replaced.clear()
    held_up = HeldUp(monkeypatch)
    writing = asyncio.ensure_future(store.insert(second))
    await held_up.reached()

    reading = asyncio.ensure_future(store.list_sessions())
    finding = asyncio.ensure_future(store.find_session(second.session_id))
    done, _ = await asyncio.wait([reading, finding], timeout=0.2)
    assert not done

    held_up.go_on()
    assert ids(await reading) == ids([first, second])
    assert await finding == await writing
    assert replaced == []


async def test_they_do_not_wait_for_a_later_write(stores: Stores) -> None:
    store = await stores.open()
    assert isinstance(store, SQLSessionStore)
    await store.insert(make_session("a"))
    writer, gate = store._opened(store._writer), WriterGate()
    held = await gate.hold(store)
    assert await asyncio.wait_for(writer.wait_for_delivery(writer.mark.written), 30)
    gate.open()
    await held


async def test_they_read_what_takes_long_to_arrive(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_DELIVERY_TIMEOUT", 0.01)
    store = await stores.open()
    session, held_up = make_session("a"), HeldUp(monkeypatch)
    writing = asyncio.ensure_future(store.insert(session))
    await held_up.reached()
    assert ids(await store.list_sessions()) == ids([session])
    assert not writing.done()
    held_up.go_on()
    await writing


async def test_they_ask_the_store_if_it_does_not_arrive(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, replaced: list[object]
) -> None:
    store = await stores.open()
    session = await store.insert(make_session("a"))
    held_up = HeldUp(monkeypatch)
    changes = Changes(name="new")
    writing = asyncio.ensure_future(
        store.update(session.session_id, changes, stop_token=make_id())
    )
    await held_up.reached()

    finding = asyncio.ensure_future(store.find_session(session.session_id))
    held_up.go_on(StoreError("made on purpose"))

    found = await finding
    assert found is not None
    assert found.name == "new"
    assert replaced
    with pytest.raises(StoreError, match="made on purpose"):
        await writing


async def test_they_do_not_wait_for_what_is_not_committed(stores: Stores) -> None:
    store = await stores.open(make_owner("here", shared_scope="shared"))
    other = await stores.open(make_owner("there", shared_scope="shared"))
    theirs, gate = make_session("theirs", scope="shared"), WriterGate()
    await other.insert(theirs)
    held = await gate.hold(store)
    assert ids(await store.list_sessions()) == ids([theirs])
    gate.open()
    await held


# The results of commits that are not urgent


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The writers that have woken their event loop. Their timers do not run."""
    monkeypatch.setattr(writer_module, "_LONGEST_REST", 300.0)
    found: list[object] = []
    wake = BatchWriter._wake

    def wake_and_note(writer: BatchWriter[Any]) -> None:
        found.append(writer)
        wake(writer)

    monkeypatch.setattr(BatchWriter, "_wake", wake_and_note)
    return found


async def acquired(store: SQLSessionStore[Any]) -> Intent:
    """Return the intent of a start."""
    start = make_start("a")
    await store.acquire(start)
    return start


async def begin_to_commit(
    store: SQLSessionStore[Any], start: Intent
) -> tuple[Session, asyncio.Task[Session]]:
    """Commit the session of the start, without urgency."""
    session = make_session("a")
    [committing] = await queue([store.commit(start.token, session, urgent=False)])
    return session, committing


async def rests(store: SQLSessionStore[Any]) -> bool:
    """Return whether something is committed, but not delivered."""
    return bool(store._opened(store._writer)._done)


async def test_results_do_not_wake_the_event_loop(stores: Stores, woken: list[object]) -> None:
    store = await stores.open()
    start = await acquired(store)
    woken.clear()
    session, committing = await begin_to_commit(store, start)
    await eventually(lambda: rests(store), "the session is committed")
    assert not committing.done()
    assert woken == []
    store.hurry()
    assert ids([await committing]) == ids([session])
    assert ids(await store.list_sessions()) == ids([session])
    assert woken == []


async def test_results_come_when_somebody_reads(stores: Stores, woken: list[object]) -> None:
    store = await stores.open()
    session, committing = await begin_to_commit(store, await acquired(store))
    await eventually(lambda: rests(store), "the session is committed")
    assert ids(await store.list_by_document("a")) == ids([session])
    assert await committing == await store.find_session(session.session_id)


async def test_results_come_with_those_of_the_next_write(
    stores: Stores, woken: list[object]
) -> None:
    store = await stores.open()
    first, committing = await begin_to_commit(store, await acquired(store))
    second = await store.insert(make_session("b"))
    assert ids([await committing, second]) == ids([first, second])
    assert ids(await store.list_sessions()) == ids([first, second])


async def test_results_come_at_once_if_there_is_a_hurry_before_they_are_known(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, woken: list[object]
) -> None:
    store = await stores.open()
    start = await acquired(store)
    held_up = HeldUp(monkeypatch)
    session, committing = await begin_to_commit(store, start)
    await held_up.reached()
    store.hurry()
    held_up.go_on()
    assert ids([await committing]) == ids([session])


async def test_results_come_soon_if_nobody_hurries(stores: Stores) -> None:
    store = await stores.open()
    session, committing = await begin_to_commit(store, await acquired(store))
    assert ids([await committing]) == ids([session])


async def test_results_come_when_the_store_is_closed(stores: Stores, woken: list[object]) -> None:
    store = await stores.open()
    session, committing = await begin_to_commit(store, await acquired(store))
    await eventually(lambda: rests(store), "the session is committed")
    await asyncio.to_thread(store.close)
    assert ids([await committing]) == ids([session])
