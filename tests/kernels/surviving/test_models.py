"""A kernel manager whose kernels survive notes each change of what it says of its kernels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from traitlets.config.configurable import LoggingConfigurable

from nbsessions.kernels import internals
from nbsessions.kernels.noted import ModelChanges
from nbsessions.kernels.surviving.manager import (
    SurvivingKernelManager,
    SurvivingMappingKernelManager,
)
from support.hosts import make_provider, running_kernel_manager
from support.surviving import Processes
from support.surviving_managers import leave_kernel, receive, surviving_kernel_manager

KEPT = {"keep_output": False, "orphan_timeout": None}


class Watched:
    """A kernel manager with one kernel, and what it has noted since the last ``check``."""

    def __init__(self, kernel_manager: Any, folder: Path) -> None:
        self.manager = kernel_manager
        self.provider = make_provider(kernel_manager, folder)
        self.changes = ModelChanges()
        self.provider.watch_models(self.changes)
        self.kernel_id = ""
        self._models: dict[str, Any] = {}

    @property
    def kernel(self) -> Any:
        return self.manager.get_kernel(self.kernel_id)

    async def start(self) -> str:
        kernel_id: str = await self.manager.start_kernel(path="")
        return kernel_id

    async def models(self) -> dict[str, Any]:
        return dict((await self.provider.models([*self.provider.list_running()])).alive)

    async def check(self, *kernel_ids: str) -> None:
        """Check that the models of these kernels have changed, and that only this was noted."""
        before, self._models = self._models, await self.models()
        known = before.keys() | self._models.keys()
        changed = {each for each in known if before.get(each) != self._models.get(each)}
        assert changed == set(kernel_ids)
        assert self.changes.take() == changed
        assert self.changes.complete


@asynccontextmanager
async def watched(folder: Path, **traits: Any) -> AsyncIterator[Watched]:
    """Yield a watched kernel manager with a kernel that has just been started."""
    async with surviving_kernel_manager(folder, **traits) as kernel_manager:
        found = Watched(kernel_manager, folder)
        found.kernel_id = await found.start()
        await found.check(found.kernel_id)
        yield found


@pytest.mark.gen_test
async def test_what_a_kernel_says_is_noted(tmp_path: Path) -> None:
    async with watched(tmp_path) as found:
        receive(found.kernel, "status", {"execution_state": "busy"})
        await found.check(found.kernel_id)
        assert found.kernel.execution_state == "busy"
        for _ in range(3):
            receive(found.kernel, "stream", {"name": "stdout", "text": "x"})
        await found.check(found.kernel_id)
        receive(found.kernel, "status", {"execution_state": "idle"})
        await found.check(found.kernel_id)
        await found.check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("execution_state", "dead"),
        ("last_activity", datetime(2024, 1, 1, tzinfo=timezone.utc)),
        ("reason", "it does not answer"),
        ("kernel_name", "other"),
    ],
)
@pytest.mark.gen_test
async def test_each_part_of_a_model_is_noted_when_it_changes(
    tmp_path: Path, name: str, value: object
) -> None:
    async with watched(tmp_path) as found:
        setattr(found.kernel, name, value)
        await found.check(found.kernel_id)
        setattr(found.kernel, name, value)
        await found.check()


@pytest.mark.gen_test
async def test_clients_that_come_and_go_are_noted(tmp_path: Path) -> None:
    async with watched(tmp_path) as found:
        for notify in (found.manager.notify_connect, found.manager.notify_disconnect):
            notify(found.kernel_id)
            await found.check(found.kernel_id)


@pytest.mark.gen_test
async def test_kernels_that_start_and_end_are_noted(tmp_path: Path) -> None:
    async with watched(tmp_path) as found:
        second, third = await found.start(), await found.start()
        await found.check(second, third)
        await found.manager.shutdown_kernel(second, now=True)
        await found.check(second)
        kernel = found.manager.get_kernel(third)
        found.manager._handle_kernel_died(third)
        await found.check(third)
        await kernel.shutdown_kernel(now=True)


@pytest.mark.gen_test
async def test_a_kernel_that_was_restarted_is_still_watched(tmp_path: Path) -> None:
    async with watched(tmp_path) as found:
        restarted = await found.manager.restart_kernel(found.kernel_id, now=True)
        restarted.cancel()
        found.changes.take()
        await found.models()
        receive(found.kernel, "status", {"execution_state": "busy"})
        await found.check(found.kernel_id)


@pytest.mark.gen_test
async def test_a_kernel_that_is_adopted_is_noted_and_watched(
    tmp_path: Path, spawn: Processes
) -> None:
    async with watched(tmp_path, parent=LoggingConfigurable()) as found:
        record = leave_kernel(tmp_path, spawn.stranger())
        assert list(await found.provider.adopt(record.server_id)) == [record.kernel_id]
        await found.check(record.kernel_id)
        found.manager.get_kernel(record.kernel_id).execution_state = "idle"
        await found.check(record.kernel_id)


@pytest.mark.gen_test
async def test_kernels_that_run_already_are_watched(tmp_path: Path) -> None:
    async with watched(tmp_path) as first:
        second = Watched(first.manager, tmp_path)
        second.kernel_id = first.kernel_id
        assert second.changes.take() == {first.kernel_id}
        second.kernel.execution_state = "busy"
        assert second.changes.take() == {first.kernel_id}


@pytest.mark.gen_test
async def test_only_the_last_one_who_watches_is_told(tmp_path: Path) -> None:
    async with watched(tmp_path) as first:
        second = Watched(first.manager, tmp_path)
        assert not first.changes.complete
        assert second.changes.complete
        second.changes.take()
        first.manager.notify_connect(first.kernel_id)
        assert second.changes.take() == {first.kernel_id}
        assert first.changes.take() == set()


# Kernel managers that may miss a change


class OtherModels(SurvivingMappingKernelManager):
    """Has models with more in them."""

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        return {**super().kernel_model(kernel_id), "more": 1}  # type: ignore[no-untyped-call]


@pytest.mark.gen_test
async def test_models_of_a_subclass_are_not_known(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path, OtherModels, **KEPT) as kernel_manager:
        assert not Watched(kernel_manager, tmp_path).changes.complete


@pytest.mark.gen_test
async def test_models_of_another_extension_are_not_known(tmp_path: Path) -> None:
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        kernel_manager.kernel_model = lambda kernel_id: {"id": kernel_id}
        assert not Watched(kernel_manager, tmp_path).changes.complete


@pytest.mark.gen_test
async def test_models_of_a_later_release_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "_MODEL_TRAITS", {"kernel_name"})
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        assert not Watched(kernel_manager, tmp_path).changes.complete


@pytest.mark.gen_test
async def test_how_pending_kernels_are_doing_is_not_known(tmp_path: Path) -> None:
    async with surviving_kernel_manager(tmp_path, use_pending_kernels=True) as kernel_manager:
        assert not Watched(kernel_manager, tmp_path).changes.complete


@pytest.mark.gen_test
async def test_other_kernel_managers_cannot_tell(tmp_path: Path) -> None:
    async with running_kernel_manager(tmp_path) as kernel_manager:
        assert not Watched(kernel_manager, tmp_path).changes.complete


class ComputedState(SurvivingKernelManager):
    """Computes its state, so that nobody is told when it changes."""

    execution_state = property(lambda self: "idle", lambda self, value: None)  # type: ignore[assignment]


def make_other(*args: Any, **kwargs: Any) -> ServerKernelManager:
    return ServerKernelManager(*args, **kwargs)


@pytest.mark.parametrize("make_kernel", [make_other, ComputedState])
@pytest.mark.gen_test
async def test_changes_are_missed_from_the_first_kernel_on_that_tells_nothing(
    tmp_path: Path, make_kernel: Callable[..., Any]
) -> None:
    async with watched(tmp_path) as found:
        found.manager.kernel_manager_factory = make_kernel
        await found.start()
        assert not found.changes.complete
