"""Store failures, disconnecting clients and server crashes at any call of any use case.

No kernel leaks, no operation is left half done, and a second attempt succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from tornado.ioloop import IOLoop

from nbsessions.errors import SessionError, SessionNotFound, StoreError
from nbsessions.models import NewSession, Session
from nbsessions.service import service
from support.faults import Fault
from support.provider import FakeKernelProvider
from support.services import (
    FREE_ID,
    STORES,
    Bench,
    make_owner,
    make_store,
    notebook,
    running_service,
)

NOT_KEPT = (Fault.UNAVAILABLE, Fault.UNCERTAIN_LOST)
UNCERTAIN = (Fault.UNCERTAIN_LOST, Fault.UNCERTAIN_KEPT)

UseCase = Callable[[Bench, Session], Awaitable[object]]


async def create(bench: Bench, session: Session) -> object:
    return await bench.create("new.ipynb")


async def create_under_id(bench: Bench, session: Session) -> object:
    return await bench.create("new.ipynb", kernel_id=FREE_ID)


async def attach(bench: Bench, session: Session) -> object:
    return await bench.create("new.ipynb", kernel_id=session.kernel_id)


async def save(bench: Bench, session: Session) -> object:
    return await bench.service.save("new id", notebook("new", kernel_id=session.kernel_id))


async def rename(bench: Bench, session: Session) -> object:
    return await bench.update(session, path="new.ipynb", name="new")


async def switch(bench: Bench, session: Session) -> object:
    return await bench.update(session, kernel_name="other")


async def share(bench: Bench, session: Session) -> object:
    other, _ = await bench.service.get(path="other.ipynb")
    return await bench.update(session, kernel_id=other.kernel_id)


async def delete(bench: Bench, session: Session) -> object:
    await bench.service.delete(session.session_id)
    return None


BEFORE: list[tuple[UseCase, str]] = [
    (create, "list_by_document"),
    (create, "acquire"),
    (create_under_id, "acquire"),
    (attach, "list_by_document"),
    (rename, "find_session"),
    (switch, "find_session"),
    (switch, "acquire"),
]
"""Operations before the decisive write. If one fails, the use case fails and changes nothing."""

DECISIVE: list[tuple[UseCase, str]] = [
    (create, "commit"),
    (create_under_id, "commit"),
    (attach, "attach"),
    (save, "insert"),
    (rename, "update"),
    (switch, "update"),
    (share, "update"),
    (delete, "delete"),
]
"""The decisive writes. If one was committed in spite of its error, the use case succeeds."""

AFTERWARDS: list[tuple[UseCase, str]] = [
    (switch, "finish_stop"),
    (share, "finish_stop"),
    (delete, "finish_stop"),
]
"""Operations after the decisive write. If one fails, the use case succeeds nevertheless."""


def named(pairs: list[tuple[UseCase, str]]) -> pytest.MarkDecorator:
    """Parametrise a test with a use case and the operation that fails in it."""
    ids = [f"{use_case.__name__}-{operation}" for use_case, operation in pairs]
    return pytest.mark.parametrize(("use_case", "operation"), pairs, ids=ids)


async def state(bench: Bench) -> list[Session]:
    """Return the sessions in the store."""
    return list(await bench.store.list_sessions())


@pytest.fixture
def session(bench: Bench, io_loop: IOLoop) -> Session:
    """A session for the use cases. The path ``other.ipynb`` has another session."""
    io_loop.run_sync(lambda: bench.create("other.ipynb"))
    created: Session = io_loop.run_sync(lambda: bench.create("a.ipynb"))
    return created


async def fails(bench: Bench, use_case: UseCase, session: Session) -> list[Session]:
    """Check that the use case fails and changes no session. Return the sessions."""
    before = await state(bench)
    with pytest.raises(StoreError):
        await use_case(bench, session)
    assert await state(bench) == before
    return before


async def succeeds_now(bench: Bench, use_case: UseCase, session: Session) -> None:
    """Run the use case again, with a store that works."""
    bench.faults.heal()
    await use_case(bench, session)
    await bench.rest()


@pytest.mark.parametrize("fault", NOT_KEPT)
@named(BEFORE)
@pytest.mark.gen_test
async def test_a_failure_before_the_decisive_write_changes_nothing(
    bench: Bench, session: Session, use_case: UseCase, operation: str, fault: Fault
) -> None:
    bench.faults.fail(operation, fault)
    before = await fails(bench, use_case, session)
    assert bench.provider.running == {each.kernel_id for each in before}
    await succeeds_now(bench, use_case, session)


@named([pair for pair in BEFORE if pair[1] == "acquire"])
@pytest.mark.gen_test
async def test_an_uncertain_intent_that_was_kept_bars_no_second_try(
    bench: Bench, session: Session, use_case: UseCase, operation: str
) -> None:
    bench.faults.fail(operation, Fault.UNCERTAIN_KEPT)
    with contextlib.suppress(StoreError):
        await use_case(bench, session)
    await succeeds_now(bench, use_case, session)


@pytest.mark.parametrize("fault", NOT_KEPT)
@named(DECISIVE)
@pytest.mark.gen_test
async def test_a_decisive_write_that_was_not_kept_changes_nothing(
    bench: Bench, session: Session, use_case: UseCase, operation: str, fault: Fault
) -> None:
    bench.faults.fail(operation, fault)
    before = await fails(bench, use_case, session)
    await bench.rest()
    assert bench.provider.running == {each.kernel_id for each in before}
    await succeeds_now(bench, use_case, session)


@named(DECISIVE)
@pytest.mark.gen_test
async def test_an_uncertain_write_that_was_kept_is_found_out(
    bench: Bench, session: Session, use_case: UseCase, operation: str
) -> None:
    before = await state(bench)
    bench.faults.fail(operation, Fault.UNCERTAIN_KEPT)
    await use_case(bench, session)
    assert await state(bench) != before


@pytest.mark.parametrize("fault", UNCERTAIN)
@named(DECISIVE)
@pytest.mark.gen_test
async def test_an_uncertain_write_of_a_store_that_went_down_is_settled_when_it_is_back(
    bench: Bench, session: Session, use_case: UseCase, operation: str, fault: Fault
) -> None:
    before = await state(bench)
    bench.faults.fail(operation, fault)
    bench.faults.down_after = operation
    with pytest.raises(StoreError):
        await use_case(bench, session)
    assert bench.provider.stops == 0
    bench.faults.heal()
    await bench.rest()
    assert (await state(bench) == before) is (fault is Fault.UNCERTAIN_LOST)


@pytest.mark.parametrize("fault", Fault)
@named(AFTERWARDS)
@pytest.mark.gen_test
async def test_a_failure_after_the_decisive_write_is_made_good_later(
    bench: Bench, session: Session, use_case: UseCase, operation: str, fault: Fault
) -> None:
    bench.faults.fail(operation, fault)
    await use_case(bench, session)
    await bench.rest()
    assert session.kernel_id not in bench.provider.running


@pytest.mark.parametrize("operation", ["find_intent", "drop_start"])
@pytest.mark.gen_test
async def test_an_undoing_that_fails_too_is_tried_again(bench: Bench, operation: str) -> None:
    bench.faults.fail("commit")
    bench.faults.fail(operation)
    with pytest.raises(StoreError):
        await bench.create()
    await bench.rest()
    assert await bench.create() == (await bench.sessions())[0]


@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_undone_at_once_is_undone_later(bench: Bench) -> None:
    bench.faults.fail("commit")
    bench.provider.shutdown_errors.append(OSError("not now"))
    with pytest.raises(StoreError):
        await bench.create()
    await bench.rest()
    assert (bench.provider.starts, bench.provider.stops) == (1, 1)


@pytest.mark.gen_test
async def test_a_store_that_is_down_throughout_leaks_nothing(bench: Bench) -> None:
    bench.faults.down = True
    for use_case in (create, create_under_id):
        with pytest.raises(StoreError):
            await use_case(bench, None)  # type: ignore[arg-type]
    assert bench.provider.starts == 0
    bench.faults.heal()
    with pytest.raises(SessionNotFound):
        await bench.service.delete("missing")


# Clients that disconnect, servers that crash


async def open_window(bench: Bench, session: Session) -> object:
    return await bench.service.create(
        NewSession(path=FREE_ID.replace("8", "a"), name="new.ipynb", type="notebook")
    )


async def move_file(bench: Bench, session: Session) -> object:
    return await bench.service.rename("a.ipynb", "new.ipynb")


use_cases = pytest.mark.parametrize(
    "use_case",
    [create, create_under_id, open_window, attach, save, rename, switch, share, delete, move_file],
    ids=lambda each: each.__name__,
)

Outcome: TypeAlias = list[tuple[str | None, str | None, int]]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def prepare(bench: Bench) -> Session:
    await bench.create("other.ipynb")
    return await bench.create("a.ipynb")


async def outcome(bench: Bench) -> Outcome:
    """Return the path, name and number of the kernel, by order of starts, of each session."""
    started = [kernel_id for event, kernel_id in bench.provider.events if event == "start"]
    return [
        (each.path, each.name, min(started.index(each.kernel_id), 2))
        for each in await state(bench)
    ]


async def outcomes(use_case: UseCase, kind: str, folder: Path) -> tuple[Outcome, Outcome]:
    """Return the outcome before the use case and the outcome after it."""
    async with running_service(kind, made(folder)) as bench:
        session = await prepare(bench)
        before = await outcome(bench)
        await use_case(bench, session)
        return before, await outcome(bench)


@use_cases
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_client_that_hangs_up_at_any_moment_leaves_the_whole_or_nothing(
    kind: str, use_case: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STOP_TIMEOUT", 60.0)
    before, done = await outcomes(use_case, kind, tmp_path / "undisturbed")
    for moment in itertools.count(1):
        async with running_service(kind, made(tmp_path / str(moment))) as bench:
            session = await prepare(bench)
            client = asyncio.create_task(use_case(bench, session))  # type: ignore[arg-type]
            bench.interruption.at(moment, client.cancel)
            await asyncio.wait({client})
            if not client.cancelled():
                assert moment > 2
                return
            await bench.service.stop()
            assert await outcome(bench) in (before, done)


@use_cases
@pytest.mark.gen_test
async def test_a_server_that_crashes_at_any_moment_leaves_the_whole_or_nothing(
    use_case: UseCase, tmp_path: Path
) -> None:
    before, done = await outcomes(use_case, "sqlite", tmp_path / "undisturbed")
    for moment in itertools.count(1):
        folder = made(tmp_path / str(moment))
        owner = make_owner("an earlier boot")
        crashed = Bench(make_store("sqlite", folder), FakeKernelProvider(), owner)
        await crashed.service.open()
        session = await prepare(crashed)
        client = asyncio.create_task(use_case(crashed, session))  # type: ignore[arg-type]
        crashed.interruption.at(moment, crashed.interruption.crash)
        await asyncio.wait({client})
        crashed.crash()
        try:
            async with running_service("sqlite", folder, provider=crashed.provider) as bench:
                assert await outcome(bench) in (before, done)
                with contextlib.suppress(SessionError):  # it may have been completed already
                    await use_case(bench, session)
                assert await outcome(bench) == done
        finally:
            crashed.store.close()
        if not client.cancelled():
            assert moment > 2
            return
