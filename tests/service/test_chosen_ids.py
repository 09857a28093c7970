"""Providers that want to know the id of a kernel before it starts."""

from __future__ import annotations

import uuid

import pytest

from nbsessions.errors import KernelIdRefused, KernelStartUncertain
from nbsessions.kernels.base import StartRequest
from nbsessions.models import Kernel
from support.services import FREE_ID, Bench, eventually, notebook


def choose_ids(bench: Bench) -> None:
    bench.provider.new_kernel_id = lambda: str(uuid.uuid4())  # type: ignore[method-assign]


@pytest.mark.gen_test
async def test_the_intent_for_a_start_has_the_id_of_the_kernel(bench: Bench) -> None:
    choose_ids(bench)
    start, intents = bench.provider.start, []

    async def look(request: StartRequest) -> Kernel:
        intents.extend(await bench.store.list_intents())
        return await start(request)

    bench.provider.start = look  # type: ignore[method-assign]
    created = await bench.create("a.ipynb")
    changed = await bench.update(created, kernel_name="other")
    assert [each.kernel_id for each in intents] == [created.kernel_id, changed.kernel_id]


@pytest.mark.gen_test
async def test_a_start_that_may_have_succeeded_is_undone_until_that_is_certain(
    bench: Bench,
) -> None:
    choose_ids(bench)
    # A provider that has launched a kernel knows whether it runs.
    bench.provider.announces = False
    start = bench.provider.start
    undo_start, attempts = bench.provider.undo_start, []

    async def start_and_hide(request: StartRequest) -> Kernel:
        await start(request)
        raise KernelStartUncertain("no answer")

    async def undo(kernel_id: str) -> None:
        attempts.append(kernel_id)
        if len(attempts) < 3:
            raise KernelStartUncertain("it may still come up")
        await undo_start(kernel_id)

    bench.provider.start = start_and_hide  # type: ignore[method-assign]
    bench.provider.undo_start = undo  # type: ignore[method-assign]
    with pytest.raises(KernelStartUncertain):
        await bench.create("a.ipynb")
    (intent,) = await bench.store.list_intents()
    assert {intent.kernel_id} == set(attempts) == bench.provider.running

    async def is_undone() -> bool:
        return not await bench.store.list_intents()

    await eventually(is_undone, "the start is undone")
    assert bench.provider.running == set()
    bench.provider.start = start  # type: ignore[method-assign]
    await bench.create("a.ipynb")


@pytest.mark.gen_test
async def test_a_start_that_fails_for_no_known_reason_leaves_no_kernel(bench: Bench) -> None:
    choose_ids(bench)
    start = bench.provider.start

    async def start_and_fail(request: StartRequest) -> Kernel:
        await start(request)
        raise KeyError("connections")

    bench.provider.start = start_and_fail  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        await bench.create("a.ipynb")
    assert bench.provider.starts == 1
    assert bench.provider.running == set()
    assert list(await bench.store.list_intents()) == []


@pytest.mark.gen_test
async def test_a_client_cannot_choose_an_id_where_the_provider_chooses_all(bench: Bench) -> None:
    bench.provider.accepts_kernel_ids = False
    with pytest.raises(KernelIdRefused):
        await bench.create("a.ipynb", kernel_id=FREE_ID)
    assert bench.provider.starts == 0
    session = await bench.create("a.ipynb")
    assert (await bench.create("b.ipynb", kernel_id=session.kernel_id)).kernel_id == (
        session.kernel_id
    )


@pytest.mark.gen_test
async def test_a_kernel_that_a_caller_asks_for_by_id_is_started_once(bench: Bench) -> None:
    request = notebook("a.ipynb", kernel_id=FREE_ID)
    first = await bench.service.start_kernel(request, "a session")
    assert await bench.service.start_kernel(request, "a session") == first
    assert bench.provider.starts == 1
    await bench.provider.shutdown(FREE_ID)
