"""Kernels whose processes run already while their starts go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nbsessions.errors import KernelStartFailed
from nbsessions.kernels.base import current_start
from nbsessions.kernels.host import HostKernelProvider
from support.hosts import make_provider, running_kernel_manager
from support.provider import Gate
from support.starts import start_request

KERNEL_ID = "11111111-2222-4333-8444-555555555555"


class Launched:
    """A provider that has launched a kernel, which its kernel manager does not know yet."""

    def __init__(self, provider: HostKernelProvider, manager: Any) -> None:
        self.provider = provider
        self.manager = manager
        self.gate = Gate()
        self.announced: list[str] = []
        self.fails_early = False
        self.fails_late = False
        """Fail once the kernel manager has the kernel."""
        self._start = manager.start_kernel

    async def start_kernel(self, **options: Any) -> str:
        request = current_start.get()
        assert request is not None
        request.launched(KERNEL_ID, "light")
        await self.gate.enter()
        if self.fails_early:
            raise OSError("the rest of the start")
        kernel_id: str = await self._start(kernel_id=KERNEL_ID, **options)
        if self.fails_late:
            raise OSError("no descriptor left")
        return kernel_id

    async def start(self) -> str:
        request = start_request(
            kernel_name="light", launched=lambda kernel_id, _: self.announced.append(kernel_id)
        )
        return (await self.provider.start(request)).kernel_id

    async def state(self) -> str:
        models = await self.provider.models([KERNEL_ID])
        if models.is_dead(KERNEL_ID):
            return "dead"
        return "unknown" if KERNEL_ID in models.unknown else "alive"


@asynccontextmanager
async def launching(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Launched, asyncio.Task[str]]]:
    async with running_kernel_manager(folder) as manager:
        launched = Launched(make_provider(manager, folder), manager)
        monkeypatch.setattr(manager, "start_kernel", launched.start_kernel)
        assert await launched.state() == "dead"
        starting = asyncio.create_task(launched.start())
        await launched.gate.reached()
        yield launched, starting


@pytest.mark.gen_test
async def test_a_launched_kernel_is_not_dead_before_the_manager_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launching(tmp_path, monkeypatch) as (launched, starting):
        assert launched.announced == [KERNEL_ID]
        assert await launched.state() == "unknown"
        launched.gate.open()
        assert await starting == KERNEL_ID
        assert await launched.state() == "alive"


@pytest.mark.gen_test
@pytest.mark.parametrize("fails", ["fails_early", "fails_late"])
async def test_of_a_launched_kernel_whose_start_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    async with launching(tmp_path, monkeypatch) as (launched, starting):
        setattr(launched, fails, True)
        launched.gate.open()
        with pytest.raises(KernelStartFailed):
            await starting
        assert list(launched.provider.list_running()) == []
        assert await launched.state() == "dead"


@pytest.mark.gen_test
async def test_a_shutdown_waits_for_the_end_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with launching(tmp_path, monkeypatch) as (launched, starting):
        ending = asyncio.create_task(launched.provider.shutdown(KERNEL_ID))
        await asyncio.sleep(0.05)
        assert not ending.done()
        launched.gate.open()
        await starting
        await ending
        assert KERNEL_ID not in launched.manager
        assert await launched.state() == "dead"
