"""A server takes over the kernels and sessions of another one that dies while it runs."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from nbsessions.errors import StoreUnavailable
from support.provider import FakeKernelProvider, Gate
from support.services import Bench, eventually, make_owner, make_store, running_service

SERVER = "the first one"
OFTEN, SELDOM = timedelta(milliseconds=10), timedelta(hours=1)
SHARED_STORES = ("sqlite", "postgres")


@pytest.fixture(params=SHARED_STORES)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def first(kind: str, tmp_path: Path, io_loop: IOLoop) -> Iterator[Bench]:
    """A running service, which may crash."""
    # A crash removes its lock. Then only another boot proves that it is dead.
    owner = make_owner("an earlier boot") if kind == "sqlite" else None
    bench = Bench(make_store(kind, tmp_path), FakeKernelProvider(), owner)
    io_loop.run_sync(bench.service.open)
    yield bench
    bench.service.close()


@asynccontextmanager
async def neighbour(kind: str, folder: Path, interval: timedelta | None) -> AsyncIterator[Bench]:
    """Yield another service on the same store, which does not see the kernels of the first."""
    provider = FakeKernelProvider()
    provider.adoption_interval = interval
    async with running_service(kind, folder, provider=provider) as bench:
        yield bench


def crash(first: Bench, second: Bench) -> None:
    """Let the first service die, and the second one be able to take over its kernels."""
    # As a kernel manager whose kernels other servers have not adopted yet.
    second.provider.elsewhere = set(first.provider.running)
    first.crash()
    first.provider.leave_all_to(second.provider, SERVER)


@pytest.mark.gen_test
async def test_the_sessions_of_a_server_that_dies_are_taken_over(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    sessions = [await first.create(path) for path in ("a.ipynb", "b.ipynb")]
    async with neighbour(kind, tmp_path, OFTEN) as second:
        await eventually(lambda: looked(second, 2), "it has looked")
        assert await second.sessions() == []
        crash(first, second)
        await eventually(lambda: has_sessions(second, 2), "it has the sessions")
        found = await second.sessions()
        assert [each.session_id for each in found] == [each.session_id for each in sessions]
        assert {each.scope for each in found} == {second.owner.owner_id}
        assert second.provider.starts == 0


async def looked(bench: Bench, times: int) -> bool:
    return bench.provider.looks >= times


async def has_sessions(bench: Bench, count: int) -> bool:
    return len(await bench.sessions()) == count


@pytest.mark.gen_test
async def test_a_document_that_is_opened_before_that_gets_its_session(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    session = await first.create()
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        found = await asyncio.gather(*(second.create() for _ in range(20)))
        assert {each.session_id for each in found} == {session.session_id}
        assert second.provider.starts == 0
        assert second.provider.running == {session.kernel_id}


@pytest.mark.gen_test
async def test_documents_that_are_opened_at_once_share_a_look(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    async with neighbour(kind, tmp_path, SELDOM) as second:
        gate = second.provider.look_gate = Gate()
        creations = [asyncio.create_task(second.create(f"{each}.ipynb")) for each in range(20)]
        await gate.reached()
        gate.open()
        await asyncio.gather(*creations)
        # Some come while a look is under way, and need the next one.
        assert second.provider.looks < 10


@pytest.mark.gen_test
async def test_a_document_that_has_a_session_needs_no_look(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    async with neighbour(kind, tmp_path, SELDOM) as second:
        await second.create()
        looks = second.provider.looks
        await second.create()
        assert second.provider.looks == looks


@pytest.mark.gen_test
async def test_a_server_without_neighbours_needs_no_look(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    async with neighbour(kind, tmp_path, SELDOM) as second:
        second.provider.is_alone = True
        await second.create("b.ipynb")
        assert second.provider.looks == 0
        # Until the sessions of adopted kernels are taken over, that is tried again.
        second.provider.is_alone = False
        session = await first.create()
        crash(first, second)
        second.faults.fail("recover")
        with pytest.raises(StoreUnavailable):
            await second.create()
        second.provider.is_alone = True
        assert (await second.create()).session_id == session.session_id


@pytest.mark.gen_test
async def test_a_kernel_that_is_asked_for_by_its_id_gets_the_new_session(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    session = await first.create()
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        other = await second.create("b.ipynb", kernel_id=session.kernel_id)
        assert other.kernel_id == session.kernel_id
        assert second.provider.starts == 0


# Placeholders, as JupyterLab asks for them


@pytest.mark.gen_test
@pytest.mark.parametrize(("name", "kernel_name"), [("a.ipynb", "light"), ("a.ipynb", None)])
async def test_a_placeholder_shares_the_kernel_that_was_taken_over_for_its_document(
    first: Bench, kind: str, tmp_path: Path, name: str, kernel_name: str | None
) -> None:
    session = await first.create("f/a.ipynb", name="a.ipynb")
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        more = {} if kernel_name is None else {"kernel_name": kernel_name}
        opened = await second.create(f"f/{uuid.uuid4()}", name=name, **more)
        assert opened.kernel_id == session.kernel_id
        assert opened.session_id != session.session_id
        again = await second.create(f"f/{uuid.uuid4()}", name=name, **more)
        assert again.kernel_id == session.kernel_id
        assert second.provider.starts == 0


@pytest.mark.gen_test
@pytest.mark.parametrize(("name", "kernel_name"), [("b.ipynb", "light"), ("a.ipynb", "other")])
async def test_a_placeholder_of_another_document_or_kernelspec_gets_its_own_kernel(
    first: Bench, kind: str, tmp_path: Path, name: str, kernel_name: str
) -> None:
    session = await first.create("f/a.ipynb", name="a.ipynb")
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        opened = await second.create(f"f/{uuid.uuid4()}", name=name, kernel_name=kernel_name)
        assert opened.kernel_id != session.kernel_id


@pytest.mark.gen_test
async def test_a_placeholder_shares_no_kernel_that_was_taken_over_long_ago(
    first: Bench, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await first.create("f/a.ipynb", name="a.ipynb")
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        await second.create("f/a.ipynb")
        monkeypatch.setattr("nbsessions.service.adopting.SHARED_FOR", timedelta(seconds=-1))
        opened = await second.create(f"f/{uuid.uuid4()}", name="a.ipynb")
        assert opened.kernel_id != session.kernel_id


# What is not taken over


@pytest.mark.gen_test
async def test_kernels_for_sessions_that_the_store_does_not_know_are_left_alone(
    kind: str, tmp_path: Path
) -> None:
    async with neighbour(kind, tmp_path, SELDOM) as second:
        second.provider.left[SERVER] = {"a kernel": "a token", "another": None}
        session = await second.create()
        assert second.provider.running == {session.kernel_id}
        assert second.provider.left == {}


@pytest.mark.gen_test
async def test_kernels_that_were_started_without_a_session_are_taken_over_and_named(
    kind: str, tmp_path: Path
) -> None:
    async with neighbour(kind, tmp_path, SELDOM) as second:
        for number in range(2):
            second.provider.left[SERVER] = {f"kernel {number}": None}
            await second.create(f"{number}.ipynb")
        warnings = second.messages(logging.WARNING)
        assert len(warnings) == 2
        assert all(f"Kernel kernel {number} was" in warnings[number] for number in range(2))
        second.provider.die("kernel 0", "kernel 1")


@pytest.mark.gen_test
async def test_a_start_that_a_death_cut_short_is_undone(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    first.faults.hold("commit")
    creation = asyncio.create_task(first.create())
    await eventually(lambda: started(first), "the kernel has started")
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        session = await second.create()
        assert second.provider.running == {session.kernel_id}
        assert second.provider.stops == 1
    creation.cancel()


async def started(bench: Bench) -> bool:
    return bench.provider.starts == 1


@pytest.mark.gen_test
async def test_a_provider_that_can_take_nothing_over_is_not_asked(
    first: Bench, kind: str, tmp_path: Path
) -> None:
    async with neighbour(kind, tmp_path, None) as second:
        await second.create()
        assert second.provider.looks == 0


# Trouble


@pytest.mark.gen_test
@pytest.mark.parametrize("operation", ["find_orphans", "recover"])
async def test_while_the_store_cannot_tell_the_sessions_no_second_kernel_is_started(
    first: Bench, kind: str, tmp_path: Path, operation: str
) -> None:
    session = await first.create()
    async with neighbour(kind, tmp_path, SELDOM) as second:
        crash(first, second)
        for _ in range(2):
            second.faults.fail(operation)
            with pytest.raises(StoreUnavailable):
                await second.create()
        assert second.provider.starts == 0
        assert (await second.create()).session_id == session.session_id


@pytest.mark.gen_test
async def test_it_is_looked_again_after_a_failure(first: Bench, kind: str, tmp_path: Path) -> None:
    await first.create()
    async with neighbour(kind, tmp_path, OFTEN) as second:
        second.faults.fail("find_orphans")
        crash(first, second)
        await eventually(lambda: has_sessions(second, 1), "it has the session")


@pytest.mark.gen_test
async def test_a_stop_waits_for_the_look_and_begins_none(kind: str, tmp_path: Path) -> None:
    async with neighbour(kind, tmp_path, OFTEN) as second:
        gate = second.provider.look_gate = Gate()
        await gate.reached()
        stop = asyncio.create_task(second.service.stop())
        await asyncio.sleep(0)
        assert not stop.done()
        gate.open()
        await stop
        looks = second.provider.looks
        await second.service._adopting.look()
        assert second.provider.looks == looks


@pytest.mark.gen_test
async def test_a_look_that_closing_overtakes_ends(kind: str, tmp_path: Path) -> None:
    bench = Bench(make_store(kind, tmp_path), FakeKernelProvider())
    bench.provider.adoption_interval = OFTEN
    gate = bench.provider.look_gate = Gate()
    await bench.service.open()
    await gate.reached()
    looking = asyncio.all_tasks()
    bench.service.close()
    await asyncio.wait(looking - {asyncio.current_task()}, timeout=30)  # type: ignore[operator]
    assert all(task.done() for task in looking - {asyncio.current_task()})  # type: ignore[operator]


@pytest.mark.gen_test
async def test_recoveries_run_one_after_the_other(kind: str, tmp_path: Path) -> None:
    async with neighbour(kind, tmp_path, None) as second:
        gate = second.faults.hold("find_orphans")
        before = second.faults.calls["find_orphans"]
        recovery = second.service._recovery
        runs = [asyncio.create_task(recovery.run()) for _ in range(2)]
        await gate.reached()
        await asyncio.sleep(0)
        assert second.faults.calls["find_orphans"] == before + 1
        gate.open()
        await asyncio.gather(*runs)
        assert second.faults.calls["find_orphans"] == before + 2
