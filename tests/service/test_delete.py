"""Deleting sessions. A kernel is shut down when its last session is deleted."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from nbsessions.errors import KernelConflict, SessionNotFound, StoreError
from nbsessions.models import EndReason
from nbsessions.service import cleanup
from support.faults import Fault
from support.provider import Gate
from support.services import STORES, running_service

pytestmark = pytest.mark.parametrize("kind", STORES)


@pytest.mark.gen_test
async def test_the_last_session_takes_its_kernel_along(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        await bench.service.delete(session.session_id)
        assert await bench.sessions() == []
        assert bench.provider.events[-1] == ("stop", session.kernel_id)


@pytest.mark.gen_test
async def test_a_kernel_that_another_session_holds_stays(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        first = await bench.create("a.ipynb")
        second = await bench.create("b.ipynb", kernel_id=first.kernel_id)
        await bench.service.delete(first.session_id)
        assert bench.provider.stops == 0
        assert await bench.sessions() == [second]


@pytest.mark.gen_test
async def test_sharers_that_are_deleted_at_once_stop_their_kernel_once(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        first = await bench.create("0.ipynb")
        sessions = [
            await bench.create(f"{number}.ipynb", kernel_id=first.kernel_id) for number in range(8)
        ]
        await asyncio.gather(*(bench.service.delete(each.session_id) for each in sessions))
        assert bench.provider.stops == 1


@pytest.mark.gen_test
async def test_a_forced_deletion_ends_the_kernel_and_its_other_sessions(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        first = await bench.create("a.ipynb")
        await bench.create("b.ipynb", kernel_id=first.kernel_id)
        bystander = await bench.create("c.ipynb")
        await bench.service.delete(first.session_id, force=True)
        assert await bench.sessions() == [bystander]
        assert bench.provider.running == {bystander.kernel_id}


@pytest.mark.gen_test
async def test_deleting_a_missing_session_raises(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        await bench.service.delete(session.session_id)
        for session_id in (session.session_id, "missing"):
            with pytest.raises(SessionNotFound):
                await bench.service.delete(session_id)


@pytest.mark.gen_test
async def test_a_session_deleted_twice_at_once_is_missing_once(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        outcomes = await asyncio.gather(
            *(bench.service.delete(session.session_id) for _ in range(2)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {type(None), SessionNotFound}
        assert bench.provider.stops == 1


@pytest.mark.gen_test
async def test_a_session_whose_kernel_died_can_be_deleted(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        bench.provider.die(session.kernel_id)
        await bench.service.delete(session.session_id)
        assert bench.provider.stops == 0


@pytest.mark.gen_test
async def test_a_kernel_on_its_way_out_is_not_given_to_a_new_session(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create("a.ipynb")
        gate = bench.provider.shutdown_gate = Gate()
        deletion = asyncio.create_task(bench.service.delete(session.session_id))
        await gate.reached()
        with pytest.raises(KernelConflict):
            await bench.create("b.ipynb", kernel_id=session.kernel_id)
        gate.open()
        await deletion
        assert await bench.sessions() == []


@pytest.mark.gen_test
async def test_nobody_waits_long_for_a_kernel_that_is_slow_to_shut_down(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "_PATIENCE", 0.01)
    async with running_service(kind, tmp_path) as bench:
        deleted, changed = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        gate = bench.provider.shutdown_gate = Gate()
        await bench.service.delete(deleted.session_id)
        changed = await bench.update(changed, kernel_name="other")
        assert await bench.sessions() == [changed]
        assert bench.provider.stops == 0
        assert len(await bench.open_intents()) == 2
        gate.open()
        await bench.rest()
        assert bench.provider.stops == 2


@pytest.mark.gen_test
async def test_a_kernel_can_be_ended_with_all_its_sessions(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        first = await bench.create("a.ipynb")
        second = await bench.create("b.ipynb", kernel_id=first.kernel_id)
        bystander = await bench.create("c.ipynb")
        seen = (await bench.service.list_kernels())[first.kernel_id]
        assert seen == {first.session_id, second.session_id}
        assert not await bench.service.end_kernel(first.kernel_id, [first.session_id])
        assert bench.provider.stops == 0
        outcomes = await asyncio.gather(
            *(bench.service.end_kernel(first.kernel_id, seen) for _ in range(4))
        )
        assert sorted(outcomes) == [False, False, False, True]
        assert await bench.sessions() == [bystander]
        assert bench.provider.stops == 1
        missing = await bench.service.find_missing([first.session_id])
        assert [ending and ending.reason for _, ending in missing] == [EndReason.ENDED]
        # A client that has not noticed yet may delete it.
        await bench.service.delete(first.session_id)


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.gen_test
async def test_an_end_that_is_not_written_or_uncertain_leaves_all_or_nothing(
    kind: str, tmp_path: Path, fault: Fault
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        bench.faults.fail("end_kernel", fault)
        with pytest.raises(StoreError):
            await bench.service.end_kernel(session.kernel_id, [session.session_id])
        kept = fault is not Fault.UNCERTAIN_KEPT
        assert await bench.sessions() == [session] * kept
        assert bench.provider.running == ({session.kernel_id} if kept else set())


@pytest.mark.gen_test
async def test_attaching_and_deleting_at_once_leaves_no_session_of_a_dead_kernel(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        first = await bench.create("a.ipynb")
        gate = bench.faults.hold("attach")
        attaching = asyncio.create_task(bench.create("b.ipynb", kernel_id=first.kernel_id))
        await gate.reached()
        # The request that attaches the kernel has already found it alive.
        await bench.service.delete(first.session_id)
        gate.open()
        with pytest.raises(KernelConflict):
            await attaching
        assert await bench.sessions() == []


@pytest.mark.gen_test
async def test_the_path_is_free_while_its_kernel_is_shut_down(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        first = await bench.create("a.ipynb")
        gate = bench.provider.shutdown_gate = Gate()
        deletion = asyncio.create_task(bench.service.delete(first.session_id))
        await gate.reached()
        second = await bench.create("a.ipynb")
        gate.open()
        await deletion
        assert bench.provider.running == {second.kernel_id}


@pytest.mark.gen_test
async def test_a_cancelled_deletion_is_finished_all_the_same(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        gate = bench.provider.shutdown_gate = Gate()
        task = asyncio.create_task(bench.service.delete(session.session_id))
        await gate.reached()
        task.cancel()
        gate.open()
        await bench.rest()
        assert await bench.sessions() == []
        assert bench.provider.stops == 1


@pytest.mark.gen_test
async def test_a_shutdown_that_fails_is_tried_again(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        bench.provider.shutdown_errors += [OSError("not now"), OSError("nor now")]
        await bench.service.delete(session.session_id)
        assert bench.provider.running == {session.kernel_id}
        await bench.rest()
        assert bench.provider.running == set()
        (warning,) = bench.messages(logging.WARNING)
        assert session.kernel_id in warning
