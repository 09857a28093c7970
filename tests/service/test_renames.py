"""Sessions follow renamed files, also during other operations, and kernels are updated."""

from __future__ import annotations

import asyncio
import logging

import pytest

from nbsessions.errors import StoreUnavailable, StoreUncertain
from support.faults import Fault
from support.services import Bench, eventually


async def paths(bench: Bench) -> list[str | None]:
    """Return the paths of the sessions, oldest first."""
    return [session.path for session in await bench.sessions()]


@pytest.mark.gen_test
@pytest.mark.parametrize(("old", "new"), [("a.ipynb", "d/b.ipynb"), ("/a.ipynb/", "/d/b.ipynb/")])
async def test_a_session_follows_its_file(bench: Bench, old: str, new: str) -> None:
    before = await bench.create("a.ipynb", name="a.ipynb")
    await bench.service.rename(old, new)
    (after,) = await bench.sessions()
    assert (after.path, after.name) == ("d/b.ipynb", "b.ipynb")
    assert (after.session_id, after.kernel_id) == (before.session_id, before.kernel_id)
    assert any(before.session_id in each for each in bench.messages(logging.INFO))


@pytest.mark.gen_test
async def test_all_sessions_in_a_folder_follow_it_and_no_others(bench: Bench) -> None:
    for path in ("a/x.ipynb", "/a/b/y.ipynb", "ab.ipynb", None):
        await bench.create(path)
    await bench.service.rename("a", "c")
    assert await paths(bench) == ["c/x.ipynb", "/c/b/y.ipynb", "ab.ipynb", None]


@pytest.mark.gen_test
async def test_a_kernels_next_restart_knows_the_new_path(bench: Bench) -> None:
    moved = await bench.create("d/a.ipynb", name="a.ipynb")
    await bench.create("b.ipynb")
    await bench.service.rename("d/a.ipynb", "d/c.ipynb")
    assert bench.provider.environments == {moved.kernel_id: ("d/c.ipynb", "c.ipynb")}


@pytest.mark.gen_test
async def test_a_rename_onto_a_held_path_keeps_both_sessions_and_kernels(bench: Bench) -> None:
    first, second = await bench.create("a.ipynb"), await bench.create("b.ipynb")
    await bench.service.rename("b.ipynb", "a.ipynb")
    assert await paths(bench) == ["a.ipynb", "a.ipynb"]
    assert bench.provider.running == {first.kernel_id, second.kernel_id}


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("old", "new"), [("", "a"), ("/", "a"), ("a.ipynb", ""), ("a.ipynb", "/")]
)
async def test_the_root_is_not_renamed(bench: Bench, old: str, new: str) -> None:
    await bench.create("a.ipynb")
    await bench.create("/")
    await bench.service.rename(old, new)
    assert await paths(bench) == ["a.ipynb", "/"]


@pytest.mark.gen_test
@pytest.mark.parametrize("first", ["rename", "update"])
async def test_it_does_not_matter_whether_the_client_or_the_file_moves_first(
    bench: Bench, first: str
) -> None:
    session = await bench.create("a.ipynb", name="a.ipynb")
    if first == "rename":
        await bench.service.rename("a.ipynb", "b.ipynb")
    await bench.update(session, path="b.ipynb")
    await bench.update(session, name="b.ipynb")
    await bench.service.rename("a.ipynb", "b.ipynb")
    (after,) = await bench.sessions()
    assert (after.path, after.name, after.kernel_id) == ("b.ipynb", "b.ipynb", session.kernel_id)
    assert bench.provider.environments[session.kernel_id] == ("b.ipynb", "b.ipynb")
    assert bench.faults.calls["update"] == (0 if first == "rename" else 2)


@pytest.mark.gen_test
async def test_a_client_and_a_file_that_move_at_once_agree(bench: Bench) -> None:
    session = await bench.create("a.ipynb", name="a.ipynb")
    await asyncio.gather(
        bench.service.rename("a.ipynb", "b.ipynb"),
        bench.update(session, path="b.ipynb", name="b.ipynb"),
    )
    (after,) = await bench.sessions()
    assert (after.path, after.name) == ("b.ipynb", "b.ipynb")


@pytest.mark.gen_test
async def test_renames_take_effect_in_their_order(bench: Bench) -> None:
    await bench.create("0", name="0")
    await asyncio.gather(*(bench.service.rename(str(n), str(n + 1)) for n in range(9)))
    (after,) = await bench.sessions()
    assert (after.path, after.name) == ("9", "9")


@pytest.mark.gen_test
async def test_a_session_that_is_being_created_follows_its_file(bench: Bench) -> None:
    gate, task = await bench.hold_up(bench.create("a/x.ipynb", name="x.ipynb"))
    await bench.service.rename("a", "b")
    gate.open()
    session = await task

    async def follows() -> bool:
        return await paths(bench) == ["b/x.ipynb"]

    await eventually(follows, "the session has the new path")
    wanted = {session.kernel_id: ("b/x.ipynb", "x.ipynb")}

    async def is_told() -> bool:
        return bench.provider.environments == wanted

    await eventually(is_told, "the kernel's next restart knows it")


@pytest.mark.gen_test
async def test_what_is_asked_for_after_a_rename_is_not_what_was_there_before(
    bench: Bench,
) -> None:
    moved = await bench.create("a.ipynb")
    gate = bench.faults.hold("rename_document")
    renaming = asyncio.create_task(bench.service.rename("a.ipynb", "b.ipynb"))
    await gate.reached()
    asked = [asyncio.create_task(bench.create(path)) for path in ("a.ipynb", "b.ipynb")]
    gate.open()
    await renaming
    new, found = await asyncio.gather(*asked)
    assert found.session_id == moved.session_id
    assert new.session_id != moved.session_id
    assert await paths(bench) == ["b.ipynb", "a.ipynb"]


@pytest.mark.gen_test
async def test_a_rename_outlives_its_caller(bench: Bench) -> None:
    await bench.create("a.ipynb")
    gate = bench.faults.hold("rename_document")
    renaming = asyncio.create_task(bench.service.rename("a.ipynb", "b.ipynb"))
    await gate.reached()
    renaming.cancel()
    gate.open()

    async def is_moved() -> bool:
        return await paths(bench) == ["b.ipynb"]

    await eventually(is_moved, "the session has the new path")


@pytest.mark.gen_test
async def test_a_rename_that_the_store_refuses_raises_and_changes_nothing(bench: Bench) -> None:
    session = await bench.create("a.ipynb")
    bench.faults.fail("rename_document")
    with pytest.raises(StoreUnavailable):
        await bench.service.rename("a.ipynb", "b.ipynb")
    assert await bench.sessions() == [session]
    assert bench.provider.environments == {}


@pytest.mark.gen_test
@pytest.mark.parametrize("fault", [Fault.UNCERTAIN_KEPT, Fault.UNCERTAIN_LOST])
async def test_after_an_uncertain_rename_the_store_is_asked(bench: Bench, fault: Fault) -> None:
    session = await bench.create("a.ipynb", name="a.ipynb")
    bench.faults.fail("rename_document", fault)
    if fault is Fault.UNCERTAIN_LOST:
        with pytest.raises(StoreUncertain):
            await bench.service.rename("a.ipynb", "b.ipynb")
        assert bench.provider.environments == {}
    else:
        await bench.service.rename("a.ipynb", "b.ipynb")
        assert bench.provider.environments == {session.kernel_id: ("b.ipynb", "b.ipynb")}


@pytest.mark.gen_test
async def test_a_new_session_that_cannot_follow_is_warned_of(bench: Bench) -> None:
    gate, task = await bench.hold_up(bench.create("a.ipynb"))
    await bench.service.rename("a.ipynb", "b.ipynb")
    bench.faults.fail("update")
    gate.open()
    await task

    async def is_warned_of() -> bool:
        return any("'b.ipynb'" in each for each in bench.messages(logging.WARNING))

    await eventually(is_warned_of, "a WARNING says so")
    assert await paths(bench) == ["a.ipynb"]


@pytest.mark.gen_test
async def test_a_new_session_that_does_not_come_about_follows_nothing(bench: Bench) -> None:
    gate, task = await bench.hold_up(bench.create("a.ipynb", kernel_name="unknown"))
    await bench.service.rename("a.ipynb", "b.ipynb")
    gate.open()
    await asyncio.wait([task])
    assert task.exception() is not None
    await bench.rest()
    assert bench.messages(logging.WARNING) == []


@pytest.mark.gen_test
async def test_renames_are_ignored_once_the_service_stops(bench: Bench) -> None:
    session = await bench.create("a.ipynb")
    await bench.service.stop()
    await bench.service.rename("a.ipynb", "b.ipynb")
    assert await bench.store.find_session(session.session_id) == session
