"""Reading sessions. A read never writes, loses no session, and is complete."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from nbsessions.errors import KernelConflict, SessionNotFound, StoreUnavailable
from nbsessions.models import SessionPatch
from support.faults import WRITES, Fault
from support.services import FREE_ID, STORES, Bench, eventually, running_service

pytestmark = pytest.mark.parametrize("kind", STORES)


async def wait_until_ended(bench: Bench, count: int) -> None:
    """Wait until the store contains this number of sessions."""

    async def ended() -> bool:
        return len(await bench.store.list_sessions()) == count

    await eventually(ended, f"{count} sessions are left")


@pytest.mark.gen_test
async def test_sessions_are_listed_oldest_first(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        sessions = [await bench.create(f"{name}.ipynb") for name in "cab"]
        moved, _ = await bench.service.update(sessions[0].session_id, SessionPatch(path="z"))
        assert await bench.sessions() == [moved, *sessions[1:]]


@pytest.mark.gen_test
async def test_reads_do_not_write(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        bench.faults.calls.clear()
        await bench.service.list_sessions()
        await bench.service.get(session_id=session.session_id)
        await bench.service.get(path="a.ipynb", type="notebook")
        with pytest.raises(SessionNotFound):
            await bench.service.get(path="b.ipynb")
        assert not set(bench.faults.calls) & set(WRITES)


@pytest.mark.gen_test
async def test_the_session_of_a_dead_kernel_is_left_out_and_ended_behind_the_read(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        dead, alive = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        bench.provider.die(dead.kernel_id)
        assert await bench.sessions() == [alive]
        with pytest.raises(SessionNotFound):
            await bench.get(dead)
        await wait_until_ended(bench, 1)

        async def told() -> bool:
            return any(dead.session_id in each for each in bench.messages(logging.INFO))

        await eventually(told, "the log tells of the session")


@pytest.mark.gen_test
async def test_a_look_up_by_path_looks_past_a_dead_session(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        dead, alive = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        alive, _ = await bench.service.update(alive.session_id, SessionPatch(path="/a.ipynb"))
        bench.provider.die(dead.kernel_id)
        found, _ = await bench.service.get(path="a.ipynb")
        assert found == alive


@pytest.mark.gen_test
async def test_a_look_up_does_not_go_through_all_sessions(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session, other = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        bench.faults.calls.clear()
        assert (await bench.get(session))[0] == session
        assert (await bench.service.get(path="/b.ipynb"))[0] == other
        assert (await bench.service.get(kernel_id=other.kernel_id))[0] == other
        found, _ = await bench.service.get(kernel_id=other.kernel_id, path="b.ipynb")
        assert found == other
        for columns in ({"session_id": "x"}, {"path": "x"}, {"kernel_id": "x"}):
            with pytest.raises(SessionNotFound):
                await bench.service.get(**columns)
        assert not bench.faults.calls["list_sessions"]


@pytest.mark.gen_test
async def test_a_session_that_could_not_be_ended_is_ended_at_a_later_read(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        dead, alive = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        bench.provider.die(dead.kernel_id)
        bench.faults.fail("end_sessions")

        async def read_again() -> bool:
            assert await bench.sessions() == [alive]
            return len(await bench.store.list_sessions()) == 1

        await eventually(read_again, "the session is ended")
        assert bench.faults.calls["end_sessions"] == 2


@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_asked_about_ends_nothing(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        session, known = await bench.create("a.ipynb"), await bench.create("b.ipynb")
        bench.provider.unknown = {session.kernel_id}
        (found, kernel), (other, other_kernel) = await bench.service.list_sessions()
        assert (found, other) == (session, known)
        assert kernel.keys() == other_kernel.keys()
        assert kernel == {
            "id": session.kernel_id,
            "name": session.kernel_name,
            "last_activity": f"{session.last_activity:%Y-%m-%dT%H:%M:%S.%fZ}",
            "connections": 0,
            "execution_state": "unknown",
        }


@pytest.mark.gen_test
async def test_only_the_provider_that_a_session_names_can_say_that_its_kernel_is_dead(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create()
        foreign = replace(
            session, session_id="foreign", path="b", kernel_id=FREE_ID, provider="gateway:x"
        )
        await bench.store.insert(foreign)
        _, (found, kernel) = await bench.service.list_sessions()
        assert found.session_id == "foreign"
        assert kernel["execution_state"] == "unknown"
        # A request for a kernel with this id does not end the session either.
        with pytest.raises(KernelConflict):
            await bench.create("c.ipynb", kernel_id=FREE_ID)
        assert await bench.store.find_session("foreign")
        await bench.store.end_sessions([found])


@pytest.mark.gen_test
async def test_a_list_is_an_error_when_the_store_cannot_be_read(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        await bench.create()
        bench.faults.fail("list_sessions", Fault.UNAVAILABLE)
        with pytest.raises(StoreUnavailable):
            await bench.service.list_sessions()
        assert len(await bench.sessions()) == 1


@pytest.mark.gen_test
async def test_a_kernel_that_dies_as_its_session_is_answered_is_shown_dead(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await bench.create("a.ipynb")
        gate = bench.faults.hold("update", done=True)
        update = bench.service.update(session.session_id, SessionPatch(name="B"))
        task = asyncio.create_task(update)
        await gate.reached()
        bench.provider.die(session.kernel_id)
        gate.open()
        _, kernel = await task
        assert kernel["execution_state"] == "dead"
        assert kernel["id"] == session.kernel_id
        assert await bench.sessions() == []
