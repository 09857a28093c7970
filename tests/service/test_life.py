"""Opening and closing the service: recovery from dead owners, and finishing running operations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tornado.ioloop import IOLoop

from nbsessions.errors import KernelspecNotFound, ServiceClosed, SessionError, StoreUnavailable
from nbsessions.models import Session
from nbsessions.service import service
from nbsessions.stores.base import SessionStore
from support.provider import FakeKernelProvider, Gate
from support.services import (
    FREE_ID,
    STORES,
    Bench,
    eventually,
    make_owner,
    make_store,
    notebook,
    running_service,
)


@pytest.fixture
def crashed(tmp_path: Path, io_loop: IOLoop) -> Iterator[Bench]:
    """A service of an earlier boot of this host, which was never closed."""
    owner = make_owner("an earlier boot")
    bench = Bench(make_store("sqlite", tmp_path), FakeKernelProvider(), owner)
    io_loop.run_sync(bench.service.open)
    bench.release_lock()
    yield bench
    bench.service.close()


# After a crash


@pytest.mark.gen_test
async def test_sessions_whose_kernels_survived_a_crash_are_taken_over(
    crashed: Bench, tmp_path: Path
) -> None:
    session = await crashed.create()
    async with running_service("sqlite", tmp_path, provider=crashed.provider) as second:
        ((found, kernel),) = await second.service.list_sessions()
        assert (found.session_id, found.kernel_id) == (session.session_id, session.kernel_id)
        assert kernel["execution_state"] == "idle"
        assert (await second.create()).session_id == session.session_id


@pytest.mark.gen_test
async def test_sessions_whose_kernels_died_in_a_crash_are_ended(
    crashed: Bench, tmp_path: Path
) -> None:
    session = await crashed.create()
    async with running_service("sqlite", tmp_path) as second:
        assert await second.sessions() == []
        assert any(session.session_id in each for each in second.messages(logging.INFO))
        assert (await second.create()).session_id != session.session_id


@pytest.mark.gen_test
async def test_sessions_of_a_live_server_are_left_alone(tmp_path: Path) -> None:
    provider = FakeKernelProvider()
    async with running_service("sqlite", tmp_path, provider=FakeKernelProvider()) as first:
        session = await first.create()
        async with running_service("sqlite", tmp_path, provider=provider) as second:
            assert await second.sessions() == []
            assert (await second.create()).kernel_id != session.kernel_id
        assert await first.sessions() == [session]


@pytest.mark.gen_test
async def test_a_start_that_a_crash_cut_short_bars_nothing(crashed: Bench, tmp_path: Path) -> None:
    await crashed.acquire("half.ipynb", kernel_id=FREE_ID)
    async with running_service("sqlite", tmp_path) as second:
        session = await second.create("half.ipynb", kernel_id=FREE_ID)
        assert session.kernel_id == FREE_ID


@pytest.mark.gen_test
async def test_a_kernel_of_a_start_that_a_crash_cut_short_is_shut_down(
    crashed: Bench, tmp_path: Path
) -> None:
    await crashed.acquire("half.ipynb", kernel_id=FREE_ID)
    await crashed.service.start_kernel(notebook(kernel_id=FREE_ID), "an id")
    async with running_service("sqlite", tmp_path, provider=crashed.provider):
        assert crashed.provider.running == set()


@pytest.mark.gen_test
async def test_a_start_that_a_crash_cut_short_elsewhere_is_left_to_who_sees_its_kernel(
    crashed: Bench, tmp_path: Path
) -> None:
    intent = await crashed.acquire("half.ipynb", kernel_id=FREE_ID)
    second = FakeKernelProvider()
    second.elsewhere = {FREE_ID}
    bench = Bench(make_store("sqlite", tmp_path), second)
    await bench.service.open()
    try:
        assert await bench.store.find_intent(intent.token) == intent
        assert second.stops == 0
    finally:
        bench.service.close()


@pytest.mark.gen_test
async def test_a_kernel_that_did_not_get_the_id_that_was_asked_for_is_shut_down_after_a_crash(
    crashed: Bench, tmp_path: Path
) -> None:
    gate = crashed.faults.hold("commit")
    start = crashed.provider.start
    crashed.provider.start = lambda request: start(replace(request, kernel_id=None))  # type: ignore[method-assign]
    creation = asyncio.create_task(crashed.create(kernel_id=FREE_ID))
    await gate.reached()
    assert crashed.provider.running - {FREE_ID}
    async with running_service("sqlite", tmp_path, provider=crashed.provider):
        assert crashed.provider.running == set()
    gate.open()
    with pytest.raises(SessionError):
        await creation


@pytest.mark.gen_test
async def test_a_kernel_that_nobody_was_told_of_is_shut_down_after_a_crash(
    crashed: Bench, tmp_path: Path
) -> None:
    gate = crashed.faults.hold("commit")
    creation = asyncio.create_task(crashed.create())
    await gate.reached()
    assert len(crashed.provider.running) == 1
    async with running_service("sqlite", tmp_path, provider=crashed.provider) as second:
        assert crashed.provider.running == set()
        assert await second.sessions() == []
    gate.open()
    with pytest.raises(SessionError):
        await creation


@pytest.mark.gen_test
async def test_what_a_dead_owner_left_is_left_to_the_server_that_has_its_kernels(
    crashed: Bench, tmp_path: Path
) -> None:
    adopted = await crashed.create("a.ipynb")
    ended = await crashed.create("b.ipynb")
    provider = FakeKernelProvider()
    provider.elsewhere = {adopted.kernel_id, ended.kernel_id}
    async with running_service("sqlite", tmp_path, provider=provider) as second:
        assert await second.sessions() == []
    crashed.provider._watchers.clear()  # the crashed service must not notice
    crashed.provider.die(ended.kernel_id)
    async with running_service("sqlite", tmp_path, provider=crashed.provider) as third:
        (found,) = await third.sessions()
        assert found.session_id == adopted.session_id
        assert any(ended.session_id in each for each in third.messages(logging.INFO))


@pytest.mark.gen_test
async def test_a_stop_that_a_crash_cut_short_is_carried_out(
    crashed: Bench, tmp_path: Path
) -> None:
    session = await crashed.create()
    gate = crashed.provider.shutdown_gate = Gate()
    deletion = asyncio.create_task(crashed.service.delete(session.session_id))
    await gate.reached()
    crashed.provider.shutdown_gate = None
    async with running_service("sqlite", tmp_path, provider=crashed.provider) as second:
        assert crashed.provider.events[-1] == ("stop", session.kernel_id)
        assert await second.sessions() == []
    gate.open()
    await deletion


@pytest.mark.gen_test
async def test_a_stop_that_fails_at_open_is_tried_again(crashed: Bench, tmp_path: Path) -> None:
    await crashed.acquire("half.ipynb", kernel_id=FREE_ID)
    await crashed.service.start_kernel(notebook(kernel_id=FREE_ID), "an id")
    crashed.provider.shutdown_errors.append(OSError("not now"))
    async with running_service("sqlite", tmp_path, provider=crashed.provider) as second:
        await second.rest()
        assert crashed.provider.running == set()


@pytest.mark.gen_test
async def test_a_kernel_that_runs_under_the_id_of_one_that_had_ended_is_left_alone(
    crashed: Bench, tmp_path: Path
) -> None:
    session = await crashed.create(kernel_id=FREE_ID)
    await crashed.service.delete(session.session_id)
    provider = FakeKernelProvider()
    second = Bench(make_store("sqlite", tmp_path), provider)
    await second.service.start_kernel(notebook(kernel_id=FREE_ID), "an id")
    await second.service.open()
    assert provider.running == {FREE_ID}
    second.service.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("operation", ["find_orphans", "recover"])
async def test_what_cannot_be_settled_at_open_is_settled_when_open_is_called_again(
    crashed: Bench, tmp_path: Path, operation: str
) -> None:
    session = await crashed.create()
    second = Bench(make_store("sqlite", tmp_path), crashed.provider)
    second.faults.fail(operation)
    with pytest.raises(StoreUnavailable):
        await second.service.open()
    await second.service.open()
    assert [each.session_id for each in await second.sessions()] == [session.session_id]
    second.service.close()


@pytest.mark.gen_test
async def test_a_store_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    bench = Bench(make_store("sqlite", tmp_path / "missing"), FakeKernelProvider())
    with pytest.raises(StoreUnavailable):
        await bench.service.open()
    bench.service.close()


# While the service runs


@pytest.mark.gen_test
async def test_the_owner_gives_signs_of_life_through_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service.upkeep.HEARTBEAT_INTERVAL", 0.0)
    monkeypatch.setattr(SessionStore, "check_interval", 0.0)
    bench = Bench(make_store("memory", tmp_path), FakeKernelProvider())
    bench.faults.fail("heartbeat")
    gate = bench.faults.hold("heartbeat", done=True)
    await bench.service.open()
    await gate.reached()
    assert bench.faults.calls["heartbeat"] == 2
    bench.service.close()
    gate.open()
    await bench.service._upkeep._tasks.wait(60)


@pytest.mark.gen_test
async def test_signs_of_life_are_given_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service.upkeep.HEARTBEAT_INTERVAL", 0.0)
    monkeypatch.setattr(SessionStore, "check_interval", 0.0)
    async with running_service("memory", tmp_path) as bench:

        async def given() -> bool:
            return bench.faults.calls["ensure_intact"] >= 3

        await eventually(given, "three rounds are through")
        assert bench.faults.calls["heartbeat"] >= 3


@pytest.mark.gen_test
async def test_the_store_is_looked_after_more_often_than_a_sign_of_life_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionStore, "check_interval", 0.0)
    async with running_service("memory", tmp_path) as bench:

        async def looked() -> bool:
            return bench.faults.calls["ensure_intact"] >= 3

        await eventually(looked, "three rounds are through")
        assert bench.faults.calls["heartbeat"] == 0


# Closing

Mutate = Callable[[Bench, Session], Awaitable[Any]]

MUTATIONS: list[Mutate] = [
    lambda bench, _: bench.create("new.ipynb"),
    lambda bench, _: bench.create(None),
    lambda bench, session: bench.update(session, name="B"),
    lambda bench, session: bench.service.delete(session.session_id),
    lambda bench, session: bench.service.save("id", notebook(kernel_id=session.kernel_id)),
    lambda bench, _: bench.service.start_kernel(notebook(), "id"),
]


@pytest.mark.parametrize("mutate", MUTATIONS)
@pytest.mark.gen_test
async def test_a_service_that_stops_takes_no_new_work(bench: Bench, mutate: Mutate) -> None:
    session = await bench.create()
    await bench.service.stop()
    with pytest.raises(ServiceClosed):
        await mutate(bench, session)
    assert await bench.sessions() == [session]
    assert len(bench.provider.requests) == 1


@pytest.mark.gen_test
async def test_stopping_lets_running_work_finish(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STOP_TIMEOUT", 60.0)
    other = await bench.create("other.ipynb")
    gate = bench.provider.start_gate = Gate()
    create = asyncio.create_task(bench.create("a.ipynb"))
    switch = asyncio.create_task(bench.update(other, kernel_name="other"))
    await gate.reached()
    stop = asyncio.create_task(bench.service.stop())
    await asyncio.sleep(0)
    gate.open()
    await stop
    assert create.done()
    assert switch.done()
    assert bench.provider.running == {(await create).kernel_id, (await switch).kernel_id}


@pytest.mark.gen_test
async def test_stopping_tries_once_more_what_is_being_retried(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STOP_TIMEOUT", 60.0)
    monkeypatch.setattr("nbsessions.service.cleanup._FIRST_RETRY", 600.0)
    session = await bench.create()
    bench.provider.shutdown_errors = [RuntimeError("not now")]
    await bench.service.delete(session.session_id)
    assert bench.provider.running == {session.kernel_id}
    gate = bench.provider.shutdown_gate = Gate()
    stop = asyncio.create_task(bench.service.stop())
    await gate.reached()
    assert not stop.done()
    gate.open()
    await stop
    assert bench.provider.running == set()
    assert await bench.open_intents() == []


@pytest.mark.gen_test
async def test_a_start_that_outlasts_the_patience_of_stopping_is_undone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service.service._STOP_TIMEOUT", 0.01)
    gate, create = await bench.hold_up(bench.create())
    await bench.service.stop()
    gate.open()
    with pytest.raises(ServiceClosed):
        await create
    assert bench.provider.running == set()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_start_that_closing_overtakes_leaves_no_kernel(kind: str, tmp_path: Path) -> None:
    bench = Bench(make_store(kind, tmp_path), FakeKernelProvider())
    await bench.service.open()
    gate, create = await bench.hold_up(bench.create())
    bench.service.close()
    gate.open()
    with pytest.raises(SessionError):
        await create
    assert bench.provider.running == set()


@pytest.mark.gen_test
async def test_a_joined_caller_does_not_begin_anew_while_the_service_stops(bench: Bench) -> None:
    gate, leader = await bench.hold_up(bench.create(kernel_name="missing"))
    joined = asyncio.create_task(bench.create(kernel_name="light"))
    await asyncio.sleep(0)
    stop = asyncio.create_task(bench.service.stop())
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(KernelspecNotFound):
        await leader
    with pytest.raises(ServiceClosed):
        await joined
    await stop


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_closing_again_does_nothing(kind: str, tmp_path: Path) -> None:
    bench = Bench(make_store(kind, tmp_path), FakeKernelProvider())
    await bench.service.open()
    bench.service.close()
    bench.service.close()
    with pytest.raises(ServiceClosed):
        await bench.create()


@pytest.mark.gen_test
async def test_a_session_outlives_its_service_when_its_kernel_does(tmp_path: Path) -> None:
    provider = FakeKernelProvider()
    first = Bench(make_store("sqlite", tmp_path), provider)
    await first.service.open()
    lost, kept = await first.create("a.ipynb"), await first.create("b.ipynb")
    provider.die(lost.kernel_id)
    first.service.close()
    async with running_service("sqlite", tmp_path, provider=provider) as second:
        assert [each.session_id for each in await second.sessions()] == [kept.session_id]


def test_a_kernel_may_end_after_the_event_loop(tmp_path: Path) -> None:
    bench = Bench(make_store("memory", tmp_path), FakeKernelProvider())

    async def begin() -> Session:
        await bench.service.open()
        return await bench.create()

    session = asyncio.run(begin())
    bench.provider.die(session.kernel_id)  # this also notifies the service
    bench.service.close()
