"""Probing whether an adopted kernel is busy."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from nbsessions.kernels.surviving import activity as activity_module
from nbsessions.kernels.surviving.activity import IdleProbe
from support.surviving_managers import surviving_kernel_manager


@pytest.mark.gen_test
async def test_a_kernel_that_is_busy_for_long_is_not_asked_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_module, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(activity_module, "_LAST_DELAY", 0.001)
    looked = asyncio.Semaphore(0)
    is_replaced = IdleProbe._is_replaced

    def look(probe: IdleProbe) -> bool:
        looked.release()
        return is_replaced(probe)

    monkeypatch.setattr(IdleProbe, "_is_replaced", look)
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        # It never answers, like a busy kernel.
        kernel = kernel_manager.get_kernel(await kernel_manager.start_kernel(path=""))
        probe = IdleProbe(kernel, clients=list, log=logging.getLogger("nbsessions.tests"))
        asking = asyncio.ensure_future(probe.run())
        for _ in range(40):
            await looked.acquire()
        assert 5 < len(probe._requests) < 20
        asking.cancel()
        await asyncio.wait([asking])
