"""Tests of HostKernelProvider.models: which kernels are alive, dead or in an unknown state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager

from nbsessions.kernels.base import StartRequest
from support.hosts import make_provider, running_kernel_manager


def request(kernel_name: str = "light") -> StartRequest:
    """Return a request to start a kernel for a notebook."""
    return StartRequest(
        token="token",
        session_id="session",
        kernel_name=kernel_name,
        kernel_id=None,
        path="a.ipynb",
        name=None,
        type="notebook",
    )


class OddKernelManager(AsyncMappingKernelManager):
    """Returns an unexpected model for the kernel ``odd_id``."""

    odd_id = ""
    answer: Any = None

    def kernel_model(self, kernel_id: str) -> Any:
        model = super().kernel_model(kernel_id)  # type: ignore[no-untyped-call]
        return type(self).answer(model) if kernel_id == self.odd_id else model


def raise_at_once(model: object) -> object:
    raise RuntimeError("odd")


async def raise_later(model: object) -> object:
    raise RuntimeError("odd")


async def wait_for_ever(model: object) -> object:
    return await asyncio.Event().wait()


async def be_cancelled(model: object) -> object:
    raise asyncio.CancelledError


def say_nothing(model: object) -> object:
    return None


async def say_nothing_later(model: object) -> object:
    return None


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbsessions.kernels.host._MODEL_TIMEOUT", 0.05)


@pytest.mark.usefixtures("_no_patience")
@pytest.mark.parametrize(
    "answer",
    [raise_at_once, raise_later, wait_for_ever, be_cancelled, say_nothing, say_nothing_later],
)
@pytest.mark.gen_test
async def test_one_odd_kernel_is_unknown_and_does_not_break_the_others(
    tmp_path: Path, answer: Callable[[object], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddKernelManager, "answer", staticmethod(answer))
    async with running_kernel_manager(tmp_path, OddKernelManager) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        odd, good = await provider.start(request()), await provider.start(request("other"))
        kernel_manager.odd_id = odd.kernel_id
        models = await provider.models([odd.kernel_id, good.kernel_id, "missing"])
        assert set(models.alive) == {good.kernel_id}
        assert models.is_dead("missing")
        last_known = models.unknown[odd.kernel_id]
        assert last_known is not None
        assert last_known["id"] == odd.kernel_id


@pytest.mark.gen_test
async def test_an_odd_kernel_is_known_as_it_was_last_however_often_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddKernelManager, "answer", staticmethod(raise_at_once))
    async with running_kernel_manager(tmp_path, OddKernelManager) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        odd, good = await provider.start(request()), await provider.start(request())
        both = [odd.kernel_id, good.kernel_id]
        kernel_manager.get_kernel(odd.kernel_id).execution_state = "busy"
        last = (await provider.models(both)).alive[odd.kernel_id]
        kernel_manager.odd_id = odd.kernel_id
        for asked in (both, [odd.kernel_id], ["missing"], both):
            models = await provider.models(asked)
            assert models.unknown == ({odd.kernel_id: last} if odd.kernel_id in asked else {})


async def answer_later(model: object) -> object:
    await asyncio.sleep(0)
    return model


@pytest.mark.gen_test
async def test_a_kernel_manager_may_answer_asynchronously(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddKernelManager, "answer", staticmethod(answer_later))
    async with running_kernel_manager(tmp_path, OddKernelManager) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        odd, good = await provider.start(request()), await provider.start(request())
        kernel_manager.odd_id = odd.kernel_id
        models = await provider.models([odd.kernel_id, good.kernel_id])
        assert set(models.alive) == {odd.kernel_id, good.kernel_id}


@pytest.mark.gen_test
async def test_a_pending_kernel_that_failed_is_listed_dead_with_its_reason(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path, use_pending_kernels=True) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        good, bad = await provider.start(request()), await provider.start(request("broken"))
        with pytest.raises(FileNotFoundError):
            await kernel_manager.get_kernel(bad.kernel_id).ready
        models = await provider.models([good.kernel_id, bad.kernel_id])
        assert models.alive[good.kernel_id]["execution_state"] == "starting"
        assert models.alive[bad.kernel_id]["execution_state"] == "dead"
        assert "FileNotFoundError" in models.alive[bad.kernel_id]["reason"]
        await provider.shutdown(bad.kernel_id)
        assert (await provider.models([bad.kernel_id])).is_dead(bad.kernel_id)
        await kernel_manager.get_kernel(good.kernel_id).ready
