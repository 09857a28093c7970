"""How a service begins and ends: what dead owners left is settled, what is running finishes."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nbsessions.errors import KernelspecNotFound, ServiceClosed, SessionError, StoreUnavailable
from nbsessions.models import Intent, Session, SessionPatch, Verb, utcnow
from nbsessions.stores.base import START_LEASE
from support.provider import FakeKernelProvider, Gate
from support.services import STORES, Bench, make_owner, make_store, notebook, running_service

KERNEL_ID = "11111111-2222-4333-8444-555555555555"


async def crashed(folder: Path, provider: FakeKernelProvider) -> Bench:
    """Return a service that an earlier boot of this host left behind in mid-air."""
    bench = Bench(make_store("sqlite", folder), provider, make_owner("an earlier boot"))
    await bench.service.open()
    return bench


def start_intent(bench: Bench, kernel_id: str | None = None) -> Intent:
    """Return the intent of a start of half.ipynb."""
    return Intent(
        token=str(uuid.uuid4()),
        verb=Verb.START,
        scope=bench.owner.owner_id,
        document="half.ipynb",
        kernel_id=kernel_id,
        lease_until=utcnow() + START_LEASE,
    )


# After a crash


@pytest.mark.gen_test
async def test_sessions_whose_kernels_survived_a_crash_are_taken_over(tmp_path: Path) -> None:
    provider = FakeKernelProvider()
    first = await crashed(tmp_path, provider)
    session = await first.create()
    async with running_service("sqlite", tmp_path, provider=provider) as second:
        ((found, kernel),) = await second.service.list_sessions()
        assert (found.session_id, found.kernel_id) == (session.session_id, session.kernel_id)
        assert kernel["execution_state"] == "idle"
        assert (await second.create()).session_id == session.session_id
    first.service.close()


@pytest.mark.gen_test
async def test_sessions_whose_kernels_died_in_a_crash_are_ended(tmp_path: Path) -> None:
    first = await crashed(tmp_path, FakeKernelProvider())
    session = await first.create()
    async with running_service("sqlite", tmp_path) as second:
        assert await second.sessions() == []
        assert any(session.session_id in each for each in second.messages(logging.INFO))
        assert (await second.create()).session_id != session.session_id
    first.service.close()


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
async def test_a_start_that_a_crash_cut_short_bars_nothing(tmp_path: Path) -> None:
    first = await crashed(tmp_path, FakeKernelProvider())
    await first.store.acquire(start_intent(first, KERNEL_ID))
    async with running_service("sqlite", tmp_path) as second:
        session = await second.create("half.ipynb", kernel_id=KERNEL_ID)
        assert session.kernel_id == KERNEL_ID
    first.service.close()


@pytest.mark.gen_test
async def test_a_kernel_of_a_start_that_a_crash_cut_short_is_shut_down(tmp_path: Path) -> None:
    provider = FakeKernelProvider()
    first = await crashed(tmp_path, provider)
    await first.store.acquire(start_intent(first, KERNEL_ID))
    await first.service.start_kernel(notebook(kernel_id=KERNEL_ID), "an id")
    async with running_service("sqlite", tmp_path, provider=provider):
        assert provider.held == set()
    first.service.close()


@pytest.mark.gen_test
async def test_a_stop_that_a_crash_cut_short_is_carried_out(tmp_path: Path) -> None:
    provider = FakeKernelProvider()
    first = await crashed(tmp_path, provider)
    session = await first.create()
    gate = provider.shutdown_gate = Gate()
    deletion = asyncio.create_task(first.service.delete(session.session_id))
    await gate.reached()
    provider.shutdown_gate = None
    async with running_service("sqlite", tmp_path, provider=provider) as second:
        assert provider.events[-1] == ("stop", session.kernel_id)
        assert await second.sessions() == []
    gate.open()
    await deletion
    first.service.close()


@pytest.mark.gen_test
async def test_a_stop_that_fails_at_open_is_tried_again(tmp_path: Path) -> None:
    provider = FakeKernelProvider()
    first = await crashed(tmp_path, provider)
    await first.store.acquire(start_intent(first, KERNEL_ID))
    await first.service.start_kernel(notebook(kernel_id=KERNEL_ID), "an id")
    provider.shutdown_errors.append(OSError("not now"))
    async with running_service("sqlite", tmp_path, provider=provider) as second:
        await second.rest()
        assert provider.held == set()
    first.service.close()


@pytest.mark.gen_test
async def test_a_kernel_that_runs_under_the_id_of_one_that_had_ended_is_left_alone(
    tmp_path: Path,
) -> None:
    first = await crashed(tmp_path, FakeKernelProvider())
    session = await first.create(kernel_id=KERNEL_ID)
    await first.service.delete(session.session_id)
    provider = FakeKernelProvider()
    second = Bench(make_store("sqlite", tmp_path), provider)
    await second.service.start_kernel(notebook(kernel_id=KERNEL_ID), "an id")
    await second.service.open()
    assert provider.held == {KERNEL_ID}
    first.service.close()
    second.service.close()


@pytest.mark.gen_test
async def test_what_cannot_be_settled_at_open_does_not_keep_the_service_from_working(
    tmp_path: Path,
) -> None:
    first = await crashed(tmp_path, FakeKernelProvider())
    await first.create()
    second = Bench(make_store("sqlite", tmp_path), FakeKernelProvider())
    second.faults.fail("settle_orphans")
    await second.service.open()
    assert second.messages(logging.WARNING) != []
    session = await second.create()
    assert await second.sessions() == [session]
    first.service.close()
    second.service.close()


@pytest.mark.gen_test
async def test_a_store_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    bench = Bench(make_store("sqlite", tmp_path / "missing"), FakeKernelProvider())
    with pytest.raises(StoreUnavailable):
        await bench.service.open()
    bench.service.close()


# While it runs


@pytest.mark.gen_test
async def test_the_owner_gives_signs_of_life_through_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service.HEARTBEAT_INTERVAL", 0.0)
    bench = Bench(make_store("memory", tmp_path), FakeKernelProvider())
    bench.faults.fail("heartbeat")
    gate = bench.faults.hold("heartbeat", done=True)
    await bench.service.open()
    await gate.reached()
    assert bench.faults.calls["heartbeat"] == 2
    bench.service.close()


# At the end

MUTATIONS: list[Callable[[Bench, Session], Awaitable[Any]]] = [
    lambda bench, _: bench.create("new.ipynb"),
    lambda bench, _: bench.create(None),
    lambda bench, session: bench.service.update(session.session_id, SessionPatch(name="B")),
    lambda bench, session: bench.service.delete(session.session_id),
    lambda bench, session: bench.service.save("id", notebook(kernel_id=session.kernel_id)),
    lambda bench, _: bench.service.start_kernel(notebook(), "id"),
]


@pytest.mark.parametrize("mutate", MUTATIONS)
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_service_that_stops_takes_no_new_work(
    kind: str, tmp_path: Path, mutate: Callable[[Bench, Session], Awaitable[Any]]
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        await bench.service.stop()
        with pytest.raises(ServiceClosed):
            await mutate(bench, session)
        assert await bench.sessions() == [session]
        assert len(bench.provider.requests) == 1


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_stopping_lets_running_work_finish(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        other = await bench.create("other.ipynb")
        gate = bench.provider.start_gate = Gate()
        create = asyncio.create_task(bench.create("a.ipynb"))
        switch = asyncio.create_task(
            bench.service.update(other.session_id, SessionPatch(kernel_name="other"))
        )
        await gate.reached()
        stop = asyncio.create_task(bench.service.stop())
        await asyncio.sleep(0)
        gate.open()
        await stop
        assert create.done()
        assert switch.done()
        assert bench.provider.held == {(await create).kernel_id, (await switch)[0].kernel_id}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_start_that_outlasts_the_patience_of_stopping_is_undone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service._STOP_TIMEOUT", 0.01)
    async with running_service(kind, tmp_path) as bench:
        gate = bench.provider.start_gate = Gate()
        create = asyncio.create_task(bench.create())
        await gate.reached()
        await bench.service.stop()
        gate.open()
        with pytest.raises(ServiceClosed):
            await create
        assert bench.provider.held == set()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_start_that_closing_overtakes_leaves_no_kernel(kind: str, tmp_path: Path) -> None:
    bench = Bench(make_store(kind, tmp_path), FakeKernelProvider())
    await bench.service.open()
    gate = bench.provider.start_gate = Gate()
    create = asyncio.create_task(bench.create())
    await gate.reached()
    bench.service.close()
    gate.open()
    with pytest.raises(SessionError):
        await create
    assert bench.provider.held == set()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_joined_caller_does_not_begin_anew_while_the_service_stops(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        gate = bench.provider.start_gate = Gate()
        leader = asyncio.create_task(bench.create(kernel_name="missing"))
        await gate.reached()
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
