"""Kernels that the servers of another namespace have left where several servers see them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from nbsessions.errors import KernelStartUncertain
from nbsessions.models import EndReason, Intent
from nbsessions.service.unserved import end_unserved
from nbsessions.stores.base import SessionStore
from support.provider import FakeKernelProvider, Gate
from support.services import Bench, make_owner, make_store
from support.values import make_id, make_start

SHARED = "gateway:http://somewhere"
OTHER_NAMESPACE = "/another/root"

pytestmark = [
    pytest.mark.parametrize("kind", ["sqlite", "postgres"]),
    pytest.mark.gen_test,
]


def make_provider(orphan_timeout: timedelta | None = None) -> FakeKernelProvider:
    provider = FakeKernelProvider(SHARED)
    provider.shared_scope = SHARED
    provider.orphan_timeout = orphan_timeout
    return provider


def other_store(kind: str, folder: Path) -> SessionStore:
    return make_store(kind, folder).for_namespace(OTHER_NAMESPACE)


@asynccontextmanager
async def running(store: SessionStore, provider: FakeKernelProvider) -> AsyncIterator[Bench]:
    """Yield the open service of a server that shares its scope."""
    owner = replace(make_owner(), shared_scope=SHARED)
    bench = Bench(store, provider, owner)
    await bench.service.open()
    try:
        yield bench
        await bench.service.stop()
        assert not bench.messages(logging.ERROR)
    finally:
        bench.service.close()


async def leave(kind: str, folder: Path, provider: FakeKernelProvider) -> str:
    """Leave a session and its kernel in the other namespace. Return the id of the session."""
    async with running(other_store(kind, folder), provider) as bench:
        session = await bench.create()
    assert provider.running == {session.kernel_id}
    return session.session_id


async def leave_start(kind: str, folder: Path) -> Intent:
    """Leave the intent of a start in the other namespace, and nothing else."""
    store = other_store(kind, folder)
    await store.open(replace(make_owner(), shared_scope=SHARED))
    start = make_start("a", scope=SHARED, kernel_id=make_id())
    await store.acquire(start)
    store.close()
    return start


async def reason_of(bench: Bench, session_id: str) -> EndReason | None:
    ((_, ending),) = await bench.service.find_missing([session_id])
    return None if ending is None else ending.reason


async def test_a_server_ends_what_no_server_of_another_namespace_has_served(
    kind: str, tmp_path: Path
) -> None:
    provider = make_provider(timedelta(0))
    session_id = await leave(kind, tmp_path, provider)

    async with running(make_store(kind, tmp_path), provider) as bench:
        await bench.service._unserved._tasks.wait(30)
        assert (provider.running, provider.stops) == (set(), 1)
        (line,) = (each for each in bench.messages(logging.INFO) if session_id in each)
        assert OTHER_NAMESPACE in line
    async with running(other_store(kind, tmp_path), provider) as bench:
        assert await bench.sessions() == []
        assert await reason_of(bench, session_id) is EndReason.DIED


async def test_a_server_serves_its_own_namespace_however_old_it_is(
    kind: str, tmp_path: Path
) -> None:
    provider = make_provider(timedelta(0))
    session_id = await leave(kind, tmp_path, provider)
    async with running(other_store(kind, tmp_path), provider) as bench:
        assert [each.session_id for each in await bench.sessions()] == [session_id]
        await bench.service._unserved._tasks.wait(30)
    assert provider.stops == 0


@pytest.mark.parametrize("orphan_timeout", [None, timedelta(hours=1)])
async def test_nothing_ends_without_a_time_and_before_it(
    kind: str, tmp_path: Path, orphan_timeout: timedelta | None
) -> None:
    provider = make_provider(orphan_timeout)
    await leave(kind, tmp_path, provider)
    async with running(make_store(kind, tmp_path), provider) as bench:
        await bench.service._unserved._tasks.wait(30)
    assert provider.stops == 0


async def test_a_namespace_that_was_served_in_the_meantime_is_left_alone(
    kind: str, tmp_path: Path
) -> None:
    provider = make_provider()
    session_id = await leave(kind, tmp_path, provider)
    log = logging.getLogger("test")
    later = timedelta(hours=1)
    store = other_store(kind, tmp_path)
    assert await end_unserved(store, provider, after=later, log=log) is None
    assert provider.stops == 0
    ended = await end_unserved(other_store(kind, tmp_path), provider, log=log)
    assert ended is not None
    assert [each.session_id for each in ended.sessions] == [session_id]
    assert (ended.is_complete, provider.running) == (True, set())


async def test_kernels_of_unknown_state_are_left_alone(kind: str, tmp_path: Path) -> None:
    provider = make_provider(timedelta(0))
    session_id = await leave(kind, tmp_path, provider)
    provider.unknown |= provider.running
    async with running(make_store(kind, tmp_path), provider) as bench:
        await bench.service._unserved._tasks.wait(30)
        (line,) = bench.messages(logging.WARNING)
        assert "their state is unknown" in line
    provider.unknown.clear()
    async with running(other_store(kind, tmp_path), provider) as bench:
        assert [each.session_id for each in await bench.sessions()] == [session_id]


async def test_what_a_stop_cuts_short_is_completed_by_the_next_server_of_that_namespace(
    kind: str, tmp_path: Path
) -> None:
    provider = make_provider(timedelta(0))
    session_id = await leave(kind, tmp_path, provider)
    gate = provider.shutdown_gate = Gate()
    async with running(make_store(kind, tmp_path), provider):
        await gate.reached()
    assert len(provider.running) == 1
    provider.shutdown_gate = None
    async with running(other_store(kind, tmp_path), provider) as bench:
        assert not provider.running
        assert await bench.sessions() == []
        assert await reason_of(bench, session_id) is EndReason.DIED


async def test_a_start_that_was_cut_short_is_undone_without_a_session(
    kind: str, tmp_path: Path
) -> None:
    provider = make_provider(timedelta(0))
    start = await leave_start(kind, tmp_path)
    async with running(make_store(kind, tmp_path), provider) as bench:
        await bench.service._unserved._tasks.wait(30)
        (line,) = (each for each in bench.messages(logging.INFO) if str(start.kernel_id) in each)
        assert "no server has served" in line
    async with running(other_store(kind, tmp_path), provider) as bench:
        assert not await bench.store.list_intents()


async def test_a_start_is_waited_for_as_long_as_it_may_bring_a_kernel_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service.unserved._PATIENCE", 0.0)
    provider = make_provider()
    provider.settling_time = timedelta(seconds=30)
    provider.shutdown_errors += [KernelStartUncertain("It may still come up")] * 2
    start = await leave_start(kind, tmp_path)
    log = logging.getLogger("test")
    ended = await end_unserved(other_store(kind, tmp_path), provider, log=log)
    assert ended is not None
    assert (ended.kernel_ids, ended.is_complete) == ({start.kernel_id}, True)


async def test_a_kernel_that_does_not_end_at_once_is_asked_again(
    kind: str, tmp_path: Path
) -> None:
    provider = make_provider(timedelta(0))
    await leave(kind, tmp_path, provider)
    provider.shutdown_errors.append(OSError("not now"))
    async with running(make_store(kind, tmp_path), provider) as bench:
        await bench.service._unserved._tasks.wait(30)
        assert not provider.running
