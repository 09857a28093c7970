"""A store that fails at any call of any use case: no kernel leaks, and a second try works."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nbsessions.errors import SessionNotFound, StoreError
from nbsessions.models import Session, SessionPatch
from support.faults import Fault
from support.services import STORES, Bench, notebook, running_service

FRESH_ID = "11111111-2222-4333-8444-555555555555"
UNCERTAIN = (Fault.UNCERTAIN_LOST, Fault.UNCERTAIN_KEPT)

UseCase = Callable[[Bench, Session], Awaitable[object]]


async def create(bench: Bench, session: Session) -> object:
    return await bench.create("new.ipynb")


async def create_under_id(bench: Bench, session: Session) -> object:
    return await bench.create("new.ipynb", kernel_id=FRESH_ID)


async def attach(bench: Bench, session: Session) -> object:
    return await bench.create("new.ipynb", kernel_id=session.kernel_id)


async def save(bench: Bench, session: Session) -> object:
    return await bench.service.save("new id", notebook("new", kernel_id=session.kernel_id))


async def rename(bench: Bench, session: Session) -> object:
    patch = SessionPatch(path="new.ipynb", name="new")
    return await bench.service.update(session.session_id, patch)


async def switch(bench: Bench, session: Session) -> object:
    patch = SessionPatch(kernel_name="other")
    return await bench.service.update(session.session_id, patch)


async def share(bench: Bench, session: Session) -> object:
    other = await bench.service.get(path="other.ipynb")
    patch = SessionPatch(kernel_id=other[0].kernel_id)
    return await bench.service.update(session.session_id, patch)


async def delete(bench: Bench, session: Session) -> object:
    await bench.service.delete(session.session_id)
    return None


BEFORE: list[tuple[UseCase, str]] = [
    (create, "find_by_document"),
    (create, "acquire"),
    (create_under_id, "end_kernels"),
    (create_under_id, "acquire"),
    (attach, "find_by_document"),
    (rename, "find_session"),
    (switch, "find_session"),
    (switch, "acquire"),
]
"""What comes before the decisive write: the use case fails, and nothing has changed."""

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
"""The write that makes it so: when it was kept, the use case succeeds."""

AFTERWARDS: list[tuple[UseCase, str]] = [
    (switch, "finish_stop"),
    (share, "finish_stop"),
    (delete, "finish_stop"),
]
"""What comes after it: the use case has succeeded all the same."""


def named(pairs: list[tuple[UseCase, str]]) -> pytest.MarkDecorator:
    """Parametrise a test with a use case and the operation that fails in it."""
    ids = [f"{use_case.__name__}-{operation}" for use_case, operation in pairs]
    return pytest.mark.parametrize(("use_case", "operation"), pairs, ids=ids)


async def state(bench: Bench) -> list[Session]:
    """Return the sessions that the store has kept."""
    return list(await bench.store.list_sessions())


async def prepared(bench: Bench) -> Session:
    """Create a session to work on, and another one."""
    await bench.create("other.ipynb")
    return await bench.create("a.ipynb")


async def succeeds_now(bench: Bench, use_case: UseCase, session: Session) -> None:
    """Try again, with a store that works."""
    bench.faults.heal()
    await use_case(bench, session)
    await bench.rest()


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.UNCERTAIN_LOST])
@named(BEFORE)
@pytest.mark.gen_test
async def test_a_failure_before_the_decisive_write_changes_nothing(
    kind: str, tmp_path: Path, use_case: UseCase, operation: str, fault: Fault
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await prepared(bench)
        before = await state(bench)
        bench.faults.fail(operation, fault)
        with pytest.raises(StoreError):
            await use_case(bench, session)
        assert await state(bench) == before
        assert bench.provider.held == {each.kernel_id for each in before}
        await succeeds_now(bench, use_case, session)


@pytest.mark.parametrize("kind", STORES)
@named([pair for pair in BEFORE if pair[1] == "acquire"])
@pytest.mark.gen_test
async def test_an_uncertain_intent_that_was_kept_bars_no_second_try(
    kind: str, tmp_path: Path, use_case: UseCase, operation: str
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await prepared(bench)
        bench.faults.fail(operation, Fault.UNCERTAIN_KEPT)
        with contextlib.suppress(StoreError):
            await use_case(bench, session)
        await succeeds_now(bench, use_case, session)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.UNCERTAIN_LOST])
@named(DECISIVE)
@pytest.mark.gen_test
async def test_a_decisive_write_that_was_not_kept_changes_nothing(
    kind: str, tmp_path: Path, use_case: UseCase, operation: str, fault: Fault
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await prepared(bench)
        before = await state(bench)
        bench.faults.fail(operation, fault)
        with pytest.raises(StoreError):
            await use_case(bench, session)
        assert await state(bench) == before
        await bench.rest()
        assert bench.provider.held == {each.kernel_id for each in before}
        await succeeds_now(bench, use_case, session)


@pytest.mark.parametrize("kind", STORES)
@named(DECISIVE)
@pytest.mark.gen_test
async def test_an_uncertain_write_that_was_kept_is_found_out(
    kind: str, tmp_path: Path, use_case: UseCase, operation: str
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await prepared(bench)
        before = await state(bench)
        bench.faults.fail(operation, Fault.UNCERTAIN_KEPT)
        await use_case(bench, session)
        assert await state(bench) != before


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("fault", UNCERTAIN)
@named(DECISIVE)
@pytest.mark.gen_test
async def test_an_uncertain_write_of_a_store_that_went_down_is_settled_when_it_is_back(
    kind: str, tmp_path: Path, use_case: UseCase, operation: str, fault: Fault
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await prepared(bench)
        before = await state(bench)
        bench.faults.fail(operation, fault)
        bench.faults.down_after = operation
        with pytest.raises(StoreError):
            await use_case(bench, session)
        assert bench.provider.stops == 0
        bench.faults.heal()
        await bench.rest()
        assert (await state(bench) == before) is (fault is Fault.UNCERTAIN_LOST)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("fault", Fault)
@named(AFTERWARDS)
@pytest.mark.gen_test
async def test_a_failure_after_the_decisive_write_is_made_good_later(
    kind: str, tmp_path: Path, use_case: UseCase, operation: str, fault: Fault
) -> None:
    async with running_service(kind, tmp_path) as bench:
        session = await prepared(bench)
        bench.faults.fail(operation, fault)
        await use_case(bench, session)
        await bench.rest()
        assert session.kernel_id not in bench.provider.held


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("operation", ["find_intent", "drop_start"])
@pytest.mark.gen_test
async def test_an_undoing_that_fails_too_is_tried_again(
    kind: str, tmp_path: Path, operation: str
) -> None:
    async with running_service(kind, tmp_path) as bench:
        bench.faults.fail("commit")
        bench.faults.fail(operation)
        with pytest.raises(StoreError):
            await bench.create()
        await bench.rest()
        assert await bench.create() == (await bench.sessions())[0]


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_kernel_that_cannot_be_undone_at_once_is_undone_later(
    kind: str, tmp_path: Path
) -> None:
    async with running_service(kind, tmp_path) as bench:
        bench.faults.fail("commit")
        bench.provider.shutdown_errors.append(OSError("not now"))
        with pytest.raises(StoreError):
            await bench.create()
        await bench.rest()
        assert (bench.provider.starts, bench.provider.stops) == (1, 1)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.gen_test
async def test_a_store_that_is_down_throughout_leaks_nothing(kind: str, tmp_path: Path) -> None:
    async with running_service(kind, tmp_path) as bench:
        bench.faults.down = True
        for use_case in (create, create_under_id):
            with pytest.raises(StoreError):
                await use_case(bench, None)  # type: ignore[arg-type]
        assert bench.provider.starts == 0
        bench.faults.heal()
        with pytest.raises(SessionNotFound):
            await bench.service.delete("missing")
