"""How a running server takes over kernels: files in a thread, kernels on the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from traitlets.config.configurable import LoggingConfigurable

from nbsessions.kernels.surviving import succession as succession_module
from nbsessions.kernels.surviving.succession import Succession
from nbsessions.models import KernelTrace
from nbsessions.registry.records import KernelRecord
from support.hosts import make_provider
from support.surviving import Processes, make_record, runs
from support.surviving_managers import leave_kernel, runtime_place, surviving_kernel_manager

SERVER = "a dead server"


class Server(LoggingConfigurable):
    """A stub of a server, which sets ``_stopping`` when a signal stops it."""

    _stopping = False


class FakeAdoption:
    """Adopts records that a test gives it, and keeps the errors."""

    def __init__(self, *records: KernelRecord) -> None:
        self.records: Sequence[KernelRecord] = records
        self.errors: list[Exception] = []

    def take_over(self, server_id: str, adopt: Callable[[KernelRecord], None]) -> None:
        assert server_id == SERVER
        for record in self.records:
            try:
                adopt(record)
            except Exception as error:
                self.errors.append(error)


def succession_of(adoption: FakeAdoption, adopt: Callable[[KernelRecord], Any]) -> Succession:
    return Succession(adoption, adopt)  # type: ignore[arg-type]


@pytest.mark.gen_test
async def test_kernels_are_adopted_on_the_thread_of_the_event_loop() -> None:
    threads: list[threading.Thread] = []
    adoption = FakeAdoption(make_record("a"), make_record("b"))
    succession = succession_of(adoption, lambda _: threads.append(threading.current_thread()))
    assert await succession.adopt(SERVER) == ["a", "b"]
    assert threads == [threading.current_thread()] * 2
    assert adoption.errors == []


@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_adopted_does_not_count() -> None:
    def adopt(record: KernelRecord) -> None:
        if record.kernel_id == "a":
            raise ProcessLookupError

    adoption = FakeAdoption(make_record("a"), make_record("b"))
    assert await succession_of(adoption, adopt).adopt(SERVER) == ["b"]
    assert [type(error) for error in adoption.errors] == [ProcessLookupError]


@pytest.mark.gen_test
async def test_a_stop_waits_for_the_adoption_and_has_the_rest_left_alone() -> None:
    stops: list[asyncio.Task[None]] = []
    begun = asyncio.Event()
    adoption = FakeAdoption(make_record("a"), make_record("b"), make_record("c"))

    def adopt(record: KernelRecord) -> None:
        stops.append(asyncio.ensure_future(succession.stop()))
        begun.set()

    succession = succession_of(adoption, adopt)
    adopting = asyncio.ensure_future(succession.adopt(SERVER))
    await begun.wait()
    await stops[0]
    assert len(adoption.errors) == 2
    assert all(isinstance(error, InterruptedError) for error in adoption.errors)
    assert await adopting == ["a"]
    assert await succession.adopt(SERVER) == []
    assert len(adoption.errors) == 2


@pytest.mark.gen_test
async def test_an_adoption_goes_on_if_its_caller_is_cancelled() -> None:
    adopted: list[KernelRecord] = []
    succession = succession_of(FakeAdoption(make_record("a")), adopted.append)
    adopting = asyncio.ensure_future(succession.adopt(SERVER))
    await asyncio.sleep(0)
    adopting.cancel()
    await succession.stop()
    assert adopting.cancelled()
    assert len(adopted) in (0, 1)  # the stop may be noticed first


def test_a_kernel_does_not_wait_for_an_event_loop_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(succession_module, "_LOOP_TIMEOUT", 0.01)
    adopted: list[KernelRecord] = []
    succession = succession_of(FakeAdoption(), adopted.append)
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(concurrent.futures.TimeoutError):
            succession._adopt_on(loop, make_record("a"))
        # It was given up, so it must not happen later.
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()
    assert adopted == []
    with pytest.raises(RuntimeError):
        succession._adopt_on(loop, make_record("a"))


# Real managers


@pytest.mark.gen_test
async def test_a_running_manager_takes_over_what_another_one_leaves(
    tmp_path: Path, spawn: Processes
) -> None:
    async with surviving_kernel_manager(tmp_path, parent=Server()) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        assert await provider.find_left() == []
        record = leave_kernel(tmp_path, spawn.stranger())
        (left,) = await provider.find_left()
        trace = KernelTrace(provider=provider.name, kernel_id=record.kernel_id, token=None)
        assert (left.server_id, left.kernels) == (record.server_id, [trace])

        assert list(await provider.adopt(left.server_id)) == [record.kernel_id]

        assert list(provider.list_running()) == [record.kernel_id]
        assert list(provider.list_adopted()) == [record.kernel_id]
        assert (await provider.models([record.kernel_id])).alive
        assert await provider.find_left() == []


@pytest.mark.gen_test
async def test_a_manager_that_was_shut_down_takes_over_nothing(
    tmp_path: Path, spawn: Processes
) -> None:
    kernel = spawn.stranger()
    async with surviving_kernel_manager(tmp_path, parent=Server()) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        record = leave_kernel(tmp_path, kernel)
        await kernel_manager.shutdown_all()
        assert list(await provider.adopt(record.server_id)) == []
    assert runs(kernel)
    assert runtime_place(tmp_path).records.read(record.kernel_id) == record


@pytest.mark.gen_test
async def test_what_is_left_to_others_is_not_found_again(tmp_path: Path, spawn: Processes) -> None:
    async with surviving_kernel_manager(tmp_path, parent=Server()) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        record = leave_kernel(tmp_path, spawn.stranger())
        await provider.leave(record.server_id)
        assert await provider.find_left() == []
        assert list(provider.list_running()) == []


@pytest.mark.gen_test
async def test_a_manager_without_a_server_takes_over_nothing(
    tmp_path: Path, spawn: Processes
) -> None:
    record = leave_kernel(tmp_path, spawn.stranger())
    async with surviving_kernel_manager(tmp_path) as kernel_manager:
        provider = make_provider(kernel_manager, tmp_path)
        assert provider.adoption_interval is None
        assert list(await provider.find_left()) == []
        assert list(await provider.adopt(record.server_id)) == []
        await provider.leave(record.server_id)


@pytest.mark.gen_test
async def test_kernels_are_looked_for_every_second(tmp_path: Path) -> None:
    async with surviving_kernel_manager(tmp_path, parent=Server()) as kernel_manager:
        interval = make_provider(kernel_manager, tmp_path).adoption_interval
        assert interval == timedelta(seconds=1)
