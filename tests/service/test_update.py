"""Changing names, paths and kernels of sessions, and when the old kernel is shut down."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nbsessions.errors import (
    KernelConflict,
    KernelNotFound,
    KernelspecNotFound,
    KernelStartFailed,
    KernelsUnavailable,
    SessionNotFound,
)
from nbsessions.models import SessionPatch
from support.provider import BROKEN, Gate
from support.services import FREE_ID, Bench, notebook


@pytest.mark.gen_test
async def test_path_name_and_type_can_be_changed(bench: Bench) -> None:
    before = await bench.create("a.ipynb", name="A")
    after = await bench.update(before, path="/b.py", name="B", type="file")
    assert (after.path, after.name, after.type) == ("/b.py", "B", "file")
    assert (after.session_id, after.kernel_id) == (before.session_id, before.kernel_id)
    assert await bench.sessions() == [after]


@pytest.mark.gen_test
async def test_a_change_is_the_sessions_last_activity(bench: Bench) -> None:
    before = await bench.create()
    after = await bench.update(before, name="B")
    assert after.created == before.created
    assert after.last_activity > before.last_activity


@pytest.mark.gen_test
async def test_a_kernels_next_restart_knows_the_new_path(bench: Bench) -> None:
    session = await bench.create("a.ipynb", name="A")
    await bench.update(session, path="b.ipynb")
    assert bench.provider.environments == {session.kernel_id: ("b.ipynb", "A")}


@pytest.mark.gen_test
async def test_what_is_so_already_is_not_written(bench: Bench) -> None:
    session = await bench.create("a.ipynb", name="A")
    after = await bench.update(
        session,
        path="a.ipynb",
        name="A",
        type="notebook",
        kernel_id=session.kernel_id,
        kernel_name="other",
    )
    assert after == session
    assert bench.faults.calls["update"] == 0
    assert bench.provider.starts == 1


@pytest.mark.gen_test
async def test_moving_onto_a_held_path_keeps_both_sessions_and_kernels(bench: Bench) -> None:
    oldest = await bench.create("a.ipynb")
    moved = await bench.create("b.ipynb")
    moved = await bench.update(moved, path="a.ipynb")
    assert await bench.sessions() == [oldest, moved]
    assert bench.provider.stops == 0
    assert await bench.create("a.ipynb") == oldest
    assert (await bench.service.get(path="a.ipynb"))[0] == oldest


@pytest.mark.gen_test
async def test_a_path_that_a_session_left_is_free(bench: Bench) -> None:
    moved = await bench.create("a.ipynb")
    await bench.update(moved, path="b.ipynb")
    assert (await bench.create("a.ipynb")).session_id != moved.session_id


@pytest.mark.gen_test
async def test_another_kernel_is_up_before_the_old_one_goes(bench: Bench) -> None:
    before = await bench.create()
    after, kernel = await bench.service.update(
        before.session_id, SessionPatch(kernel_name="other")
    )
    assert kernel["name"] == after.kernel_name == "other"
    assert bench.provider.events == [
        ("start", before.kernel_id),
        ("start", after.kernel_id),
        ("stop", before.kernel_id),
    ]


@pytest.mark.gen_test
@pytest.mark.parametrize("name", [BROKEN, "missing"])
async def test_a_kernel_that_does_not_start_leaves_the_old_one(bench: Bench, name: str) -> None:
    session = await bench.create()
    with pytest.raises((KernelStartFailed, KernelspecNotFound)):
        await bench.update(session, path="b.ipynb", kernel_name=name)
    assert await bench.sessions() == [session]


@pytest.mark.gen_test
async def test_a_kernel_id_goes_before_a_kernel_name(bench: Bench) -> None:
    first, second = await bench.create("a.ipynb"), await bench.create("b.ipynb")
    after = await bench.update(first, kernel_id=second.kernel_id, kernel_name="other")
    assert after.kernel_id == second.kernel_id
    assert bench.provider.starts == 2
    assert bench.provider.running == {second.kernel_id}


@pytest.mark.gen_test
async def test_an_unknown_kernel_id_changes_nothing(bench: Bench) -> None:
    session = await bench.create()
    with pytest.raises(KernelNotFound):
        await bench.update(session, name="B", kernel_id=FREE_ID)
    assert await bench.sessions() == [session]


@pytest.mark.gen_test
async def test_a_kernel_that_nothing_is_known_of_is_not_used(bench: Bench) -> None:
    session = await bench.create()
    bench.provider.unknown = {FREE_ID}
    for attempt in (
        bench.update(session, kernel_id=FREE_ID),
        bench.create("b.ipynb", kernel_id=FREE_ID),
        bench.service.save("an id", notebook("b.ipynb", kernel_id=FREE_ID)),
    ):
        with pytest.raises(KernelsUnavailable):
            await attempt
    assert await bench.sessions() == [session]
    assert bench.provider.running == {session.kernel_id}


@pytest.mark.gen_test
async def test_a_kernel_that_others_hold_stays(bench: Bench) -> None:
    first = await bench.create("a.ipynb")
    second = await bench.create("b.ipynb", kernel_id=first.kernel_id)
    await bench.update(second, kernel_name="other")
    assert bench.provider.stops == 0
    assert await bench.get(first) == (first, bench.provider.model(first.kernel_id))


@pytest.mark.gen_test
async def test_a_forced_change_ends_the_kernel_and_its_other_sessions(bench: Bench) -> None:
    first = await bench.create("a.ipynb")
    second = await bench.create("b.ipynb", kernel_id=first.kernel_id)
    after = await bench.update(second, kernel_name="other", force=True)
    assert await bench.sessions() == [after]
    assert ("stop", first.kernel_id) in bench.provider.events


@pytest.mark.gen_test
async def test_a_session_stays_in_sight_when_the_kernel_dies_that_it_is_leaving(
    bench: Bench,
) -> None:
    first, second = await bench.create("a.ipynb"), await bench.create("b.ipynb")
    gate = bench.faults.hold("update")
    change = asyncio.create_task(bench.update(first, kernel_id=second.kernel_id))
    await gate.reached()
    bench.provider.die(first.kernel_id)
    assert await bench.sessions() == [first, second]
    assert (await bench.get(first))[1]["execution_state"] == "unknown"
    gate.open()
    after = await change
    assert await bench.sessions() == [after, second]


@pytest.mark.gen_test
async def test_a_session_that_reads_have_called_gone_does_not_come_back(bench: Bench) -> None:
    session = await bench.create()
    starting, change = await bench.hold_up(bench.update(session, kernel_name="other"))
    ending = bench.faults.hold("end_sessions")
    bench.provider.die(session.kernel_id)
    with pytest.raises(SessionNotFound):
        await bench.get(session)
    starting.open()
    with pytest.raises(SessionNotFound):
        await change
    ending.open()
    assert bench.provider.running == set()


@pytest.mark.gen_test
async def test_a_missing_session_raises_and_starts_nothing(bench: Bench) -> None:
    for patch in (SessionPatch(), SessionPatch(kernel_name="light")):
        with pytest.raises(SessionNotFound):
            await bench.service.update("missing", patch)
    assert bench.provider.requests == []


@pytest.mark.gen_test
async def test_a_session_of_a_dead_kernel_cannot_be_changed(bench: Bench) -> None:
    session = await bench.create()
    bench.provider.die(session.kernel_id)
    with pytest.raises(SessionNotFound):
        await bench.update(session, name="B")


@pytest.mark.gen_test
async def test_a_cancelled_change_is_finished_all_the_same(bench: Bench) -> None:
    before = await bench.create()
    gate, task = await bench.hold_up(bench.update(before, kernel_name="other"))
    task.cancel()
    gate.open()
    await bench.rest()
    (after,) = await bench.sessions()
    assert after.kernel_name == "other"
    assert bench.provider.running == {after.kernel_id}


@pytest.mark.gen_test
async def test_the_kernel_of_a_session_that_was_deleted_meanwhile_is_undone(bench: Bench) -> None:
    session = await bench.create()
    gate, task = await bench.hold_up(bench.update(session, kernel_name="other"))
    await bench.service.delete(session.session_id)
    gate.open()
    with pytest.raises(SessionNotFound):
        await task
    assert bench.provider.running == set()


@pytest.mark.gen_test
async def test_two_changes_of_kernel_at_once_leave_one_kernel(bench: Bench) -> None:
    session = await bench.create()
    gate = bench.provider.start_gate = Gate()
    updates = [asyncio.create_task(bench.update(session, kernel_name="other")) for _ in range(2)]
    await gate.reached()
    gate.open()
    await asyncio.gather(*updates)
    (after,) = await bench.sessions()
    assert bench.provider.running == {after.kernel_id}


@pytest.mark.gen_test
async def test_a_kernel_on_its_way_out_cannot_be_attached_to(bench: Bench) -> None:
    going, staying = await bench.create("a.ipynb"), await bench.create("b.ipynb")
    gate = bench.provider.shutdown_gate = Gate()
    deletion = asyncio.create_task(bench.service.delete(going.session_id))
    await gate.reached()
    with pytest.raises(KernelConflict):
        await bench.update(staying, kernel_id=going.kernel_id)
    gate.open()
    await deletion
    assert await bench.sessions() == [staying]


@pytest.mark.gen_test
async def test_an_old_kernel_that_does_not_end_is_shut_down_later(bench: Bench) -> None:
    session = await bench.create()
    bench.provider.shutdown_errors.append(OSError("not now"))
    after = await bench.update(session, kernel_name="other")
    await bench.rest()
    assert bench.provider.running == {after.kernel_id}
    assert any(session.kernel_id in each for each in bench.messages(logging.WARNING))
