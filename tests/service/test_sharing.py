"""Clients that open one document at the same time share a kernel, even with different paths."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from nbsessions.errors import KernelspecNotFound
from nbsessions.models import KernelModels, NewSession, Session
from nbsessions.service import placeholders
from nbsessions.stores import transaction
from support.provider import FakeKernelProvider
from support.services import FREE_ID, Bench, eventually, running_service


def placeholder(
    folder: str = "", name: str = "a.ipynb", type: str = "notebook", **more: str
) -> NewSession:
    """Return the first request that JupyterLab sends when it opens a notebook."""
    path = f"{folder}/{uuid.uuid4()}".strip("/")
    return NewSession(path=path, name=name, type=type, **more)


async def create(bench: Bench, request: NewSession) -> Session:
    session, _ = await bench.service.create(request)
    return session


@pytest.mark.gen_test
async def test_two_placeholders_of_one_document_at_once_share_a_kernel(bench: Bench) -> None:
    requests = [placeholder("folder"), placeholder("folder")]
    sessions = await asyncio.gather(*[create(bench, request) for request in requests])
    assert bench.provider.starts == 1
    assert len({session.kernel_id for session in sessions}) == 1
    assert [session.path for session in sessions] == [request.path for request in requests]
    assert len({session.session_id for session in sessions}) == 2


@pytest.mark.gen_test
async def test_a_program_and_a_window_at_once_share_a_kernel(bench: Bench) -> None:
    gate, first = await bench.hold_up(bench.create("folder/a.ipynb"))
    second = asyncio.create_task(create(bench, placeholder("/folder")))
    gate.open()
    assert (await first).kernel_id == (await second).kernel_id
    assert bench.provider.starts == 1


@pytest.mark.gen_test
async def test_who_names_the_default_kernel_and_who_names_none_share_it(bench: Bench) -> None:
    first = await create(bench, placeholder(kernel_name=bench.provider.default_kernel_name))
    assert (await create(bench, placeholder())).kernel_id == first.kernel_id


@pytest.mark.gen_test
async def test_a_window_and_a_program_a_moment_later_share_a_kernel(bench: Bench) -> None:
    first = await create(bench, placeholder())
    second = await bench.create("a.ipynb")
    assert second.kernel_id == first.kernel_id
    assert second.session_id != first.session_id


@pytest.mark.gen_test
async def test_a_kernel_is_shared_once_the_first_has_its_real_path(bench: Bench) -> None:
    first = await create(bench, placeholder())
    await bench.update(first, path="a.ipynb")
    await bench.update(first, name="a.ipynb")
    second = await create(bench, placeholder())
    assert second.kernel_id == first.kernel_id
    await bench.update(second, path="a.ipynb")
    assert len(await bench.sessions()) == 2
    assert bench.provider.stops == 0


@pytest.mark.gen_test
async def test_a_shared_kernel_goes_with_the_last_that_holds_it(bench: Bench) -> None:
    first, second = [await create(bench, placeholder()) for _ in range(2)]
    await bench.service.delete(first.session_id)
    assert bench.provider.running == {second.kernel_id}
    await bench.service.delete(second.session_id)
    assert bench.provider.running == set()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "other",
    [
        {"folder": "another"},
        {"name": "b.ipynb"},
        {"kernel_name": "other"},
        {"kernel_id": FREE_ID},
        {"type": "console"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_what_is_not_the_same_is_not_shared(bench: Bench, other: dict[str, str]) -> None:
    first = await create(bench, placeholder())
    second = await create(bench, placeholder(**other))
    assert second.kernel_id != first.kernel_id


@pytest.mark.gen_test
async def test_after_a_change_of_the_kernel_the_old_one_is_not_handed_out(bench: Bench) -> None:
    first = await create(bench, placeholder(kernel_name="light"))
    changed = await bench.update(first, path="a.ipynb", kernel_name="light")
    second = await create(bench, placeholder(kernel_name="light"))
    assert len({first.kernel_id, changed.kernel_id, second.kernel_id}) == 3


@pytest.mark.gen_test
async def test_after_a_shutdown_a_new_start_gets_a_new_kernel(bench: Bench) -> None:
    first = await create(bench, placeholder())
    await bench.service.delete(first.session_id)
    second = await create(bench, placeholder())
    assert second.kernel_id != first.kernel_id


@pytest.mark.gen_test
async def test_a_kernel_that_died_is_not_shared(bench: Bench) -> None:
    first = await create(bench, placeholder())
    bench.provider.die(first.kernel_id)
    second = await create(bench, placeholder())
    assert second.kernel_id != first.kernel_id


@pytest.mark.gen_test
async def test_a_kernel_whose_session_went_to_another_document_is_not_shared(
    bench: Bench,
) -> None:
    first = await create(bench, placeholder())
    await bench.update(first, path="renamed.ipynb", name="renamed.ipynb")
    second = await create(bench, placeholder())
    assert second.kernel_id != first.kernel_id


@pytest.mark.gen_test
async def test_a_start_is_shared_for_a_moment_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "SHARED_FOR", timedelta(seconds=-1))
    first, second = [await create(bench, placeholder()) for _ in range(2)]
    assert second.kernel_id != first.kernel_id


@pytest.mark.gen_test
async def test_a_start_that_fails_fails_for_all_and_bars_nothing(bench: Bench) -> None:
    bench.provider.start_errors.append(KernelspecNotFound("light"))
    gate, first = await bench.hold_up(create(bench, placeholder()))
    looked = bench.faults.hold("list_by_document", done=True)
    second = asyncio.create_task(create(bench, placeholder()))
    await looked.reached()
    looked.open()
    # From there, nothing keeps it from waiting for the first one but the event loop.
    for _ in range(10):
        await asyncio.sleep(0)
    gate.open()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(outcome, KernelspecNotFound) for outcome in outcomes)
    bench.provider.start_gate = None
    assert (await create(bench, placeholder())).kernel_id in bench.provider.running


@pytest.mark.gen_test
async def test_many_at_once_share_one_kernel(bench: Bench) -> None:
    requests = [placeholder() for _ in range(16)] + [
        NewSession(path="a.ipynb", name="a.ipynb", type="notebook") for _ in range(16)
    ]
    sessions = await asyncio.gather(*[create(bench, request) for request in requests])
    assert bench.provider.starts == 1
    assert {session.kernel_id for session in sessions} == bench.provider.running


# Abandoned placeholders


@pytest.mark.gen_test
async def test_a_placeholder_that_nobody_renames_or_connects_to_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placeholders, "PLACEHOLDER_TIMEOUT", 0.0)
    await create(bench, placeholder())

    async def is_ended() -> bool:
        return not await bench.sessions() and not bench.provider.running

    await eventually(is_ended, "it is ended, and its kernel is shut down")


@pytest.mark.parametrize("used", ["renamed", "connected"])
@pytest.mark.gen_test
async def test_a_placeholder_that_is_used_stays(bench: Bench, used: str) -> None:
    session = await create(bench, placeholder())
    if used == "renamed":
        session = await bench.update(session, path="a.ipynb")
    else:
        bench.provider.connected.add(session.kernel_id)
    await let_time_pass(bench)
    assert await bench.sessions() == [session]


@pytest.mark.gen_test
async def test_a_placeholder_stays_if_a_look_at_its_kernel_shows_a_client(bench: Bench) -> None:
    session = await create(bench, placeholder())
    models = bench.provider.models

    async def look(kernel_ids: Sequence[str]) -> KernelModels:
        bench.provider.connected.update(kernel_ids)
        return await models(kernel_ids)

    bench.provider.models = look  # type: ignore[method-assign]
    await let_time_pass(bench)
    assert len(await bench.sessions()) == 1
    assert bench.provider.running == {session.kernel_id}


async def let_time_pass(bench: Bench) -> None:
    """Run the checks of all watched placeholders now, as if their time had expired."""
    watched = bench.service._placeholders
    for session_id, timer in list(watched._timers.items()):
        timer.cancel()
        watched._check(session_id)
    await watched._tasks.wait(60)


@pytest.mark.parametrize(("timeout", "left"), [(300.0, 0), (0.0, 1)], ids=["new", "old"])
@pytest.mark.gen_test
async def test_a_placeholder_of_an_earlier_server_is_ended_if_it_is_new(
    timeout: float, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = FakeKernelProvider()
    async with running_service("sqlite", tmp_path, provider=provider) as first:
        await create(first, placeholder())
    monkeypatch.setattr(placeholders, "PLACEHOLDER_TIMEOUT", timeout)
    async with running_service("sqlite", tmp_path, provider=provider) as second:
        await let_time_pass(second)
        assert len(await second.sessions()) == left


# Kernels that exit by themselves


@pytest.mark.gen_test
async def test_a_session_ends_with_its_kernel_without_a_look(bench: Bench) -> None:
    session = await bench.create()
    bench.provider.die(session.kernel_id)

    async def is_ended() -> bool:
        return not await bench.store.list_sessions()

    await eventually(is_ended, "the session is gone from the store")
    # A client that deletes the session now gets no error.
    await bench.service.delete(session.session_id)
