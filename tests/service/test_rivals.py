"""Two independent kernel starts for one document. One succeeds, and the other is undone."""

from __future__ import annotations

import asyncio

import pytest

from nbsessions.errors import StartInProgress
from nbsessions.models import Intent, Session
from nbsessions.stores.base import START_LEASE
from support.provider import Gate
from support.services import Bench, eventually, notebook
from support.values import LAPSED, make_session


async def rival_session(bench: Bench, rival: Intent) -> Session:
    """Complete the start of the rival, and return its session."""
    bench.provider.start_gate = None
    kernel = await bench.service.start_kernel(notebook(), "rival")
    session = make_session(
        "/a.ipynb",
        kernel_id=kernel.kernel_id,
        kernel_name=kernel.kernel_name,
        provider=kernel.provider,
        scope=rival.scope,
    )
    return await bench.store.commit(rival.token, session)


async def create_held_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> tuple[Gate, asyncio.Task[Session]]:
    """Begin a start whose lease has expired by the time that its kernel is running."""
    monkeypatch.setattr("nbsessions.service.starting.START_LEASE", LAPSED)
    held_up = await bench.hold_up(bench.create("a.ipynb"))
    monkeypatch.setattr("nbsessions.service.starting.START_LEASE", START_LEASE)
    return held_up


async def was_refused_again(bench: Bench) -> None:
    """Wait until the service asks for a start, once more than until now."""
    before = bench.faults.calls["acquire"]

    async def has_asked() -> bool:
        return bench.faults.calls["acquire"] > before

    await eventually(has_asked, "the service has asked for the start")


def let_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock of the event loop be later by so much."""
    loop = asyncio.get_running_loop()
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + seconds)


@pytest.mark.gen_test
async def test_a_start_waits_for_one_that_is_under_way(bench: Bench) -> None:
    rival = await bench.acquire()
    task = asyncio.create_task(bench.create("a.ipynb"))
    await was_refused_again(bench)
    winner = await rival_session(bench, rival)
    assert await task == winner
    assert bench.provider.running == {winner.kernel_id}


@pytest.mark.gen_test(timeout=1000)
async def test_a_start_waits_for_the_minutes_that_a_gateway_may_take(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = await bench.acquire()
    task = asyncio.create_task(bench.create("a.ipynb"))
    await was_refused_again(bench)
    let_pass(monkeypatch, 290.0)
    await was_refused_again(bench)
    winner = await rival_session(bench, rival)
    assert await task == winner


@pytest.mark.gen_test(timeout=1000)
async def test_a_start_that_waits_too_long_raises(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = await bench.acquire()
    task = asyncio.create_task(bench.create("a.ipynb"))
    await was_refused_again(bench)
    let_pass(monkeypatch, 310.0)
    with pytest.raises(StartInProgress):
        await task
    assert bench.provider.starts == 0
    await bench.store.drop_start(rival.token)
    await bench.create("a.ipynb")


@pytest.mark.gen_test
async def test_a_start_goes_on_when_the_one_under_way_is_given_up(bench: Bench) -> None:
    rival = await bench.acquire()
    task = asyncio.create_task(bench.create("a.ipynb"))
    await bench.store.drop_start(rival.token)
    assert (await task).path == "a.ipynb"


@pytest.mark.gen_test
async def test_a_start_whose_lease_has_lapsed_is_taken_over(bench: Bench) -> None:
    rival = await bench.acquire(lease=LAPSED)
    session = await bench.create("a.ipynb")
    await bench.store.drop_start(rival.token)
    assert await bench.sessions() == [session]


@pytest.mark.gen_test
async def test_the_loser_stops_its_kernel_and_answers_with_the_winners_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, task = await create_held_up(bench, monkeypatch)
    rival = await bench.acquire()
    winner = await rival_session(bench, rival)
    gate.open()
    assert await task == winner
    await bench.rest()
    assert bench.provider.running == {winner.kernel_id}


@pytest.mark.gen_test
async def test_the_loser_to_a_start_that_is_still_under_way_raises(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, task = await create_held_up(bench, monkeypatch)
    rival = await bench.acquire()
    gate.open()
    with pytest.raises(StartInProgress):
        await task
    assert bench.provider.running == set()
    await rival_session(bench, rival)


@pytest.mark.gen_test
async def test_a_new_kernel_whose_start_was_voided_is_stopped(bench: Bench) -> None:
    session = await bench.create("a.ipynb")
    gate, task = await bench.hold_up(bench.update(session, kernel_name="other"))
    (intent,) = await bench.open_intents()
    await bench.store.drop_start(intent.token)
    gate.open()
    with pytest.raises(StartInProgress):
        await task
    assert await bench.sessions() == [session]
    assert bench.provider.stops == 1
