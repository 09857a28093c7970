"""Providers that want to know the id of a kernel before it starts."""

from __future__ import annotations

import uuid

import pytest

from nbsessions.errors import KernelStartUncertain
from nbsessions.kernels.base import StartRequest
from nbsessions.models import Kernel
from support.services import Bench, eventually


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
