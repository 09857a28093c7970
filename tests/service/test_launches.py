"""Sessions that are written while the start of their kernel goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nbsessions.errors import KernelStartFailed, ServiceClosed, SessionNotFound
from nbsessions.models import LiveSession, Session
from nbsessions.service import service
from nbsessions.stores.sql import writer
from support.provider import Gate
from support.services import Bench, eventually, notebook


async def launch(bench: Bench) -> tuple[Gate, asyncio.Task[LiveSession], Session]:
    """Create a session, and return it when it is written and the start is held up."""
    gate = bench.provider.launch_gate = Gate()
    creating = asyncio.create_task(bench.service.create(notebook()))
    await gate.reached()

    async def is_written() -> bool:
        return bool(await bench.store.list_by_document("a.ipynb"))

    await eventually(is_written, "the session is written")
    (session,) = await bench.store.list_by_document("a.ipynb")
    return gate, creating, session


@pytest.mark.gen_test
async def test_the_session_is_there_before_the_start_is_complete(bench: Bench) -> None:
    gate, creating, session = await launch(bench)
    (listed,) = await bench.listed()
    assert (listed["id"], listed["kernel"]["id"]) == (session.session_id, session.kernel_id)
    assert listed["kernel"]["execution_state"] == "unknown"
    assert await bench.open_intents() == []

    gate.open()
    created, kernel = await creating
    assert created == session
    assert kernel["execution_state"] == "idle"
    (listed,) = await bench.listed()
    assert listed["kernel"] == kernel


@pytest.mark.gen_test
async def test_the_session_is_answered_as_soon_as_the_start_is_complete(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The event loop is not woken when the session is written.
    monkeypatch.setattr(writer, "_LONGEST_REST", 300.0)
    gate = bench.provider.launch_gate = Gate()
    creating = asyncio.create_task(bench.service.create(notebook()))
    await gate.reached()
    gate.open()
    await asyncio.wait_for(creating, 60)


@pytest.mark.gen_test
async def test_of_a_start_that_fails_after_the_launch_nothing_is_left(bench: Bench) -> None:
    gate, creating, session = await launch(bench)
    bench.provider.launch_errors.append(KernelStartFailed("light", OSError("it is broken")))
    gate.open()
    with pytest.raises(KernelStartFailed):
        await creating
    assert await bench.sessions() == await bench.store.list_sessions() == []
    assert await bench.open_intents() == []
    bench.provider.launch_gate = None
    assert (await bench.create()).session_id != session.session_id


@pytest.mark.gen_test
@pytest.mark.parametrize("what", ["delete", "switch"])
async def test_a_kernel_that_is_no_longer_wanted_is_shut_down_after_its_start(
    bench: Bench, what: str
) -> None:
    other = await bench.create("other.ipynb")
    gate, creating, session = await launch(bench)
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "delete": lambda: bench.service.delete(session.session_id),
        "switch": lambda: bench.update(session, kernel_id=other.kernel_id),
    }
    changing = asyncio.ensure_future(changes[what]())
    await asyncio.sleep(0.05)
    assert bench.provider.stops == 0

    gate.open()
    await creating
    await changing
    await bench.rest()
    assert session.kernel_id not in bench.provider.running
    if what == "delete":
        with pytest.raises(SessionNotFound):
            await bench.get(session)


@pytest.mark.gen_test
async def test_another_session_can_have_the_kernel_once_its_start_is_complete(
    bench: Bench,
) -> None:
    other = await bench.create("other.ipynb")
    gate, creating, session = await launch(bench)
    console = asyncio.create_task(bench.create("console", kernel_id=session.kernel_id))
    switch = asyncio.create_task(bench.update(other, kernel_id=session.kernel_id))
    await asyncio.sleep(0.05)
    assert not console.done()
    assert not switch.done()

    gate.open()
    await creating
    assert (await console).kernel_id == (await switch).kernel_id == session.kernel_id
    await bench.rest()


@pytest.mark.gen_test
async def test_a_start_that_has_lost_its_intent_and_then_fails_leaves_nothing(
    bench: Bench,
) -> None:
    gate = bench.provider.start_gate = Gate()
    creating = asyncio.create_task(bench.service.create(notebook()))
    await gate.reached()
    (intent,) = await bench.store.list_intents()
    await bench.store.drop_start(intent.token)
    bench.provider.launch_errors.append(KernelStartFailed("light", OSError("it is broken")))
    gate.open()
    with pytest.raises(KernelStartFailed):
        await creating
    await bench.rest()
    assert await bench.store.list_sessions() == []


@pytest.mark.gen_test
async def test_a_launch_that_outlasts_the_stop_of_the_server_is_undone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STOP_TIMEOUT", 0.05)
    gate, creating, _ = await launch(bench)
    await bench.service.stop()
    gate.open()
    with pytest.raises(ServiceClosed):
        await creating
    assert bench.provider.running == set()
    assert await bench.store.list_sessions() == []
