"""Which sessions a server does not serve, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbsessions.errors import StoreUnavailable
from nbsessions.models import EndReason, Session
from support.faults import WRITES
from support.provider import FakeKernelProvider
from support.services import FREE_ID, Bench, eventually, make_owner, make_store, running_service

pytestmark = pytest.mark.gen_test


async def reasons(bench: Bench, *sessions: Session) -> list[tuple[str, EndReason | None]]:
    """Return the ids of those sessions that are missing, and why."""
    missing = await bench.service.find_missing([session.session_id for session in sessions])
    return [(session_id, ending and ending.reason) for session_id, ending in missing]


# One server


async def test_what_is_served_is_not_missing(bench: Bench) -> None:
    sessions = [await bench.create(path) for path in "ab"]
    bench.faults.fail("find_endings")
    assert await reasons(bench, *sessions) == []
    assert not bench.faults.calls["find_endings"]


async def test_what_was_never_here_is_missing_for_no_known_reason(bench: Bench) -> None:
    assert list(await bench.service.find_missing([FREE_ID])) == [(FREE_ID, None)]


async def test_what_a_client_has_deleted_is_missing_for_no_known_reason(bench: Bench) -> None:
    session = await bench.create()
    await bench.service.delete(session.session_id)
    await bench.rest()
    assert await reasons(bench, session) == [(session.session_id, None)]


async def test_a_session_is_missing_as_soon_as_its_kernel_is_dead(bench: Bench) -> None:
    session = await bench.create()
    gate = bench.faults.hold("end_sessions")
    bench.provider.die(session.kernel_id)
    ((session_id, ending),) = await bench.service.find_missing([session.session_id])
    assert ending is not None
    assert (session_id, ending.session_id) == (session.session_id, session.session_id)
    assert (ending.reason, ending.ended) == (EndReason.ENDED, None)
    gate.open()

    async def is_known_when() -> bool:
        ((_, ending),) = await bench.service.find_missing([session.session_id])
        assert ending is not None
        assert ending.reason is EndReason.ENDED
        return ending.ended is not None

    await eventually(is_known_when, "the end of the session is recorded")


async def test_a_session_whose_kernel_cannot_be_asked_about_is_not_missing(bench: Bench) -> None:
    session = await bench.create()
    bench.provider.unknown = {session.kernel_id}
    assert await reasons(bench, session) == []
    bench.provider.unknown = set()


async def test_the_missing_are_told_once_and_in_the_order_of_the_question(bench: Bench) -> None:
    there, gone = await bench.create("a"), await bench.create("b")
    bench.provider.die(gone.kernel_id)
    await bench.rest()
    asked = ["x", gone.session_id, there.session_id, "a", gone.session_id, "x"]
    missing = await bench.service.find_missing(asked)
    assert [session_id for session_id, _ in missing] == ["x", gone.session_id, "a"]


async def test_asking_does_not_write(bench: Bench) -> None:
    there, gone = await bench.create("a"), await bench.create("b")
    await bench.service.delete(gone.session_id)
    await bench.rest()
    bench.faults.calls.clear()
    await reasons(bench, there, gone)
    assert not set(bench.faults.calls) & set(WRITES)


@pytest.mark.parametrize("operation", ["list_sessions", "find_endings"])
async def test_what_cannot_be_read_raises(bench: Bench, operation: str) -> None:
    bench.faults.fail(operation)
    with pytest.raises(StoreUnavailable):
        await bench.service.find_missing([FREE_ID])
    assert len(await bench.service.find_missing([FREE_ID])) == 1


# The next server, and others


async def left(folder: Path, *, crashes: bool, dies: bool = True) -> tuple[Bench, list[Session]]:
    """Return a server that is gone, and its sessions: two of them have one kernel."""
    owner = make_owner("an earlier boot")
    bench = Bench(make_store("sqlite", folder), FakeKernelProvider(), owner)
    await bench.service.open()
    sessions = [await bench.create(path) for path in "ab"]
    sessions.append(await bench.create("c", kernel_id=sessions[0].kernel_id))
    if dies and not crashes:
        await bench.service.stop()
        bench.provider.die(*bench.provider.running)
    if crashes:
        bench.crash()
    else:
        bench.service.close()
    return bench, sessions


@pytest.mark.parametrize("reason", [EndReason.DIED, EndReason.REBOOTED])
async def test_after_a_crash_all_sessions_of_a_dead_kernel_end_for_its_reason(
    tmp_path: Path, reason: EndReason
) -> None:
    _, sessions = await left(tmp_path, crashes=True)
    provider = FakeKernelProvider()
    provider.rebooted = reason is EndReason.REBOOTED
    async with running_service("sqlite", tmp_path, provider=provider) as bench:
        assert await reasons(bench, *sessions) == [(each.session_id, reason) for each in sessions]


async def test_after_a_stop_it_is_the_stop_that_ended_the_sessions(tmp_path: Path) -> None:
    _, sessions = await left(tmp_path, crashes=False)
    async with running_service("sqlite", tmp_path) as bench:
        stopped = EndReason.STOPPED
        assert await reasons(bench, *sessions) == [(each.session_id, stopped) for each in sessions]


@pytest.mark.parametrize("crashes", [False, True])
async def test_sessions_that_are_taken_over_are_not_missing(tmp_path: Path, crashes: bool) -> None:
    before, sessions = await left(tmp_path, crashes=crashes, dies=False)
    async with running_service("sqlite", tmp_path, provider=before.provider) as bench:
        assert await reasons(bench, *sessions) == []


async def test_sessions_whose_kernels_this_server_does_not_see_are_elsewhere(
    tmp_path: Path,
) -> None:
    _, sessions = await left(tmp_path, crashes=True)
    provider = FakeKernelProvider("local:another host")
    async with running_service("sqlite", tmp_path, provider=provider) as bench:
        elsewhere = EndReason.ELSEWHERE
        assert await reasons(bench, *sessions) == [
            (each.session_id, elsewhere) for each in sessions
        ]


async def test_the_sessions_of_another_live_server_are_elsewhere(tmp_path: Path) -> None:
    async with running_service("sqlite", tmp_path) as first:
        session = await first.create()
        async with running_service("sqlite", tmp_path) as second:
            assert await reasons(second, session) == [(session.session_id, EndReason.ELSEWHERE)]
        assert await reasons(first, session) == []
