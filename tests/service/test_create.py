"""Creating sessions: find-or-create by path, a single kernel, and undoing failed creations."""

from __future__ import annotations

import asyncio
import logging
import uuid

import pytest

from nbsessions.errors import (
    InvalidRequest,
    KernelConflict,
    KernelNotFound,
    KernelspecNotFound,
    KernelStartFailed,
    ServiceClosed,
    SessionNotFound,
)
from nbsessions.models import LiveSession, Session
from nbsessions.service import service
from support.provider import BROKEN, Gate
from support.services import FREE_ID, Bench, notebook


async def create_many(
    bench: Bench, count: int, **more: str
) -> tuple[Gate, list[asyncio.Task[LiveSession]]]:
    """Request one document many times, and return when the kernel is being started."""
    gate = bench.provider.start_gate = Gate()
    tasks = [asyncio.create_task(bench.service.create(notebook(**more))) for _ in range(count)]
    await gate.reached()
    return gate, tasks


@pytest.mark.gen_test
async def test_creating_starts_a_kernel_and_returns_its_session(bench: Bench) -> None:
    session, kernel = await bench.service.create(notebook(name="A", kernel_name="other"))
    assert (session.path, session.name, session.type) == ("a.ipynb", "A", "notebook")
    assert (session.kernel_name, session.provider) == ("other", bench.provider.name)
    assert kernel["id"] == session.kernel_id
    assert await bench.sessions() == [session]


@pytest.mark.gen_test
async def test_a_kernel_is_told_what_it_is_started_for(bench: Bench) -> None:
    session = await bench.create("d/a.ipynb", name="A", kernel_name="light")
    (request,) = bench.provider.requests
    assert request.session_id == session.session_id
    assert (request.path, request.name, request.type) == ("d/a.ipynb", "A", "notebook")
    assert (request.kernel_name, request.kernel_id) == ("light", None)


@pytest.mark.gen_test
async def test_many_equal_requests_start_one_kernel_and_get_equal_answers(bench: Bench) -> None:
    gate, tasks = await create_many(bench, 32)
    gate.open()
    answers = await asyncio.gather(*tasks)
    assert all(answer == answers[0] for answer in answers)
    assert bench.provider.starts == 1


@pytest.mark.gen_test
async def test_cancelling_the_first_of_many_does_not_cancel_the_others(bench: Bench) -> None:
    gate, (first, *others) = await create_many(bench, 8)
    first.cancel()
    gate.open()
    answers = await asyncio.gather(*others)
    assert [session for session, _ in answers] == await bench.sessions() * len(others)
    assert bench.provider.starts == 1


@pytest.mark.gen_test
async def test_a_request_whose_callers_have_all_gone_leaves_a_whole_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STOP_TIMEOUT", 60.0)
    gate, tasks = await create_many(bench, 2)
    for task in tasks:
        task.cancel()
    gate.open()
    await bench.service.stop()
    (session,) = await bench.sessions()
    assert bench.provider.running == {session.kernel_id}


@pytest.mark.gen_test
async def test_a_joined_caller_that_wanted_another_kernel_does_not_get_the_leaders_error(
    bench: Bench,
) -> None:
    gate, leader = await bench.hold_up(bench.create(kernel_name="missing"))
    joined = asyncio.create_task(bench.create(kernel_name="light"))
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(KernelspecNotFound):
        await leader
    assert (await joined).kernel_name == "light"


@pytest.mark.gen_test
async def test_callers_that_want_the_same_share_its_error(bench: Bench) -> None:
    gate, tasks = await create_many(bench, 4, kernel_name=BROKEN)
    gate.open()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [KernelStartFailed] * 4
    assert len(bench.provider.requests) == 1


@pytest.mark.gen_test
async def test_a_path_is_usable_after_a_start_that_failed(bench: Bench) -> None:
    with pytest.raises(KernelStartFailed):
        await bench.create(kernel_name=BROKEN)
    assert await bench.sessions() == []
    assert (await bench.create(kernel_name="light")).kernel_name == "light"


@pytest.mark.gen_test
async def test_slashes_around_a_path_make_no_other_document(bench: Bench) -> None:
    session = await bench.create("/d/a.ipynb")
    assert await bench.create("d/a.ipynb") == session
    assert session.path == "/d/a.ipynb"
    assert (await bench.service.get(path="d/a.ipynb"))[0] == session


@pytest.mark.gen_test
@pytest.mark.parametrize("other", ["A.ipynb", "a\u0308.ipynb", "drive:a.ipynb", "d\\a.ipynb"])
async def test_nothing_else_of_a_path_is_folded(bench: Bench, other: str) -> None:
    for path in ("a.ipynb", "\u00e4.ipynb", "d/a.ipynb"):
        await bench.create(path)
    assert (await bench.create(other)).path == other
    assert bench.provider.starts == 4


@pytest.mark.gen_test
async def test_requests_without_a_path_are_joined_to_nothing(bench: Bench) -> None:
    first, second = await asyncio.gather(bench.create(None), bench.create(None))
    assert first.kernel_id != second.kernel_id
    assert len(await bench.sessions()) == 2


@pytest.mark.gen_test
async def test_a_kernel_that_runs_is_attached_to(bench: Bench) -> None:
    first = await bench.create("a.ipynb", kernel_name="other")
    second = await bench.create("b.ipynb", kernel_id=first.kernel_id)
    assert (second.kernel_id, second.kernel_name) == (first.kernel_id, "other")
    assert bench.provider.starts == 1


@pytest.mark.gen_test
async def test_a_kernel_that_nobody_knows_is_started_under_the_id_asked_for(bench: Bench) -> None:
    assert (await bench.create(kernel_id=FREE_ID)).kernel_id == FREE_ID


@pytest.mark.gen_test
async def test_a_kernel_id_can_be_used_again_when_its_kernel_has_ended(bench: Bench) -> None:
    first = await bench.create("a.ipynb", kernel_id=FREE_ID)
    await bench.service.delete(first.session_id)
    assert (await bench.create("b.ipynb", kernel_id=FREE_ID)).kernel_id == FREE_ID


@pytest.mark.gen_test
@pytest.mark.parametrize("kernel_id", ["no", "../../etc-a-b-c-d", "a-b-c-d-" + 60 * "e", "\0"])
async def test_an_id_that_cannot_be_addressed_gives_way_to_a_fresh_one(
    bench: Bench, kernel_id: str
) -> None:
    session = await bench.create(kernel_id=kernel_id)
    assert bench.provider.can_address(session.kernel_id)
    assert bench.provider.requests[0].kernel_id is None


@pytest.mark.gen_test
async def test_a_kernel_id_that_is_not_used_is_told_in_the_log(bench: Bench) -> None:
    session = await bench.create()
    assert await bench.create(kernel_id=FREE_ID) == session
    (warning,) = bench.messages(logging.WARNING)
    assert FREE_ID in warning
    assert session.session_id in warning


@pytest.mark.gen_test
async def test_two_documents_cannot_start_kernels_under_one_id_at_once(bench: Bench) -> None:
    gate, first = await bench.hold_up(bench.create("a.ipynb", kernel_id=FREE_ID))
    with pytest.raises(KernelConflict):
        await bench.create("b.ipynb", kernel_id=FREE_ID)
    gate.open()
    assert (await first).kernel_id == FREE_ID


@pytest.mark.gen_test
async def test_a_session_whose_kernel_died_is_replaced(bench: Bench) -> None:
    dead = await bench.create()
    bench.provider.die(dead.kernel_id)
    new = await bench.create()
    assert new.session_id != dead.session_id
    assert await bench.sessions() == [new]


@pytest.mark.gen_test
async def test_a_dead_kernel_is_started_again_under_the_id_of_a_dead_session(bench: Bench) -> None:
    dead = await bench.create("a.ipynb")
    bench.provider.die(dead.kernel_id)
    new = await bench.create("b.ipynb", kernel_id=dead.kernel_id)
    assert new.kernel_id == dead.kernel_id
    assert await bench.sessions() == [new]


@pytest.mark.gen_test
async def test_a_session_that_moved_onto_the_path_of_a_start_wins(bench: Bench) -> None:
    moved = await bench.create("other.ipynb")
    gate, starting = await bench.hold_up(bench.create("a.ipynb"))
    await bench.update(moved, path="a.ipynb")
    gate.open()
    assert (await starting).session_id == moved.session_id
    assert bench.provider.running == {moved.kernel_id}
    assert bench.provider.starts - bench.provider.stops == 1


@pytest.mark.gen_test
async def test_saving_makes_a_session_for_a_kernel_that_runs(bench: Bench) -> None:
    first = await bench.create()
    request = notebook(kernel_id=first.kernel_id)
    saved, _ = await bench.service.save("an id", request)
    assert saved.session_id == "an id"
    assert await bench.sessions() == [first, saved]
    assert bench.provider.starts == 1


@pytest.mark.gen_test
async def test_saving_for_a_kernel_that_is_not_there_raises(bench: Bench) -> None:
    for request in (notebook(), notebook(kernel_id=FREE_ID)):
        with pytest.raises(KernelNotFound):
            await bench.service.save("an id", request)


@pytest.mark.gen_test
async def test_saving_under_a_taken_id_raises(bench: Bench) -> None:
    session = await bench.create()
    with pytest.raises(InvalidRequest, match="session_id"):
        await bench.service.save(session.session_id, notebook(kernel_id=session.kernel_id))


@pytest.mark.gen_test
async def test_a_kernel_can_be_started_without_a_session(bench: Bench) -> None:
    kernel = await bench.service.start_kernel(notebook(kernel_name="other"), "an id")
    (request,) = bench.provider.requests
    assert (request.session_id, request.path, request.kernel_name) == (
        "an id",
        "a.ipynb",
        "other",
    )
    assert bench.provider.find_started(str(uuid.UUID(request.token))) == kernel.kernel_id
    assert await bench.sessions() == []
    assert await bench.service.has_kernel(kernel.kernel_id)
    await bench.provider.shutdown(kernel.kernel_id)
    assert not await bench.service.has_kernel(kernel.kernel_id)


@pytest.mark.gen_test
async def test_a_kernel_without_a_session_gets_no_id_that_clients_cannot_reach(
    bench: Bench,
) -> None:
    kernel = await bench.service.start_kernel(notebook(kernel_id="../../x"), "an id")
    assert kernel.kernel_id != "../../x"
    await bench.provider.shutdown(kernel.kernel_id)


@pytest.mark.gen_test
async def test_a_kernel_without_a_session_that_is_up_after_the_stop_is_shut_down(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STOP_TIMEOUT", 0.05)
    gate, start = await bench.hold_up(bench.service.start_kernel(notebook(), "an id"))
    await bench.service.stop()
    gate.open()
    with pytest.raises(ServiceClosed):
        await start
    assert bench.provider.running == set()


@pytest.mark.gen_test
async def test_what_no_session_has_is_not_found(bench: Bench) -> None:
    session: Session = await bench.create(name="A")
    found, _ = await bench.service.get(name="A", kernel_id=session.kernel_id)
    assert found == session
    for columns in ({"name": "B"}, {"session_id": None}, {"path": "b.ipynb"}):
        with pytest.raises(SessionNotFound):
            await bench.service.get(**columns)
