"""Several real processes on one file: no write is lost, and the file stays intact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.store_processes import (
    OtherProcess,
    close_store,
    hammer,
    insert,
    list_sessions,
    open_store,
    other_process,
)
from support.stores import rows
from support.values import make_owner, make_session

PROCESSES = 4
ROUNDS = 20


@pytest.fixture
def others() -> Iterator[list[OtherProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(other_process()) for _ in range(PROCESSES)]


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_nothing_is_lost_when_several_processes_write(
    tmp_path: Path, others: list[OtherProcess], wal: bool
) -> None:
    path = tmp_path / "sessions.db"
    # They open the file at the same time, before it exists.
    for number, process in enumerate(others):
        process.tell(hammer, path, f"owner-{number}", ROUNDS, wal)
    kept = {f"owner-{number}": process.answer() for number, process in enumerate(others)}
    assert sum(map(len, kept.values())) == PROCESSES * ROUNDS * 3
    others[0].kill()
    for process in others[1:]:
        process.ask(close_store)
    found = rows(path, "SELECT scope, session_id FROM nbsessions_session ORDER BY seq")
    # Processes that closed had no running kernels. The killed one left its acknowledged writes.
    assert found == [("owner-0", session_id) for session_id in kept["owner-0"]]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    starts = "SELECT COUNT(*) FROM nbsessions_intent WHERE verb = 'start'"
    assert rows(path, starts) == [(0,)]


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_a_new_file_can_be_opened_by_several_processes_at_once(
    tmp_path: Path, others: list[OtherProcess], wal: bool
) -> None:
    for attempt in range(10):
        path = tmp_path / f"sessions-{attempt}.db"
        for number, process in enumerate(others):
            process.tell(open_store, path, make_owner(f"owner-{number}"), "namespace", wal)
        for process in others:
            process.answer()
        for number, process in enumerate(others):
            scope = f"owner-{number}"
            session = process.ask(insert, make_session("a", scope=scope))
            assert process.ask(list_sessions) == [session]
            process.tell(close_store, [session.kernel_id])
            process.answer()
        assert rows(path, "SELECT COUNT(*) FROM nbsessions_session") == [(PROCESSES,)]


@pytest.mark.parametrize("wal", [True, False], ids=["wal", "rollback"])
def test_what_was_acknowledged_survives_a_kill(
    tmp_path: Path, others: list[OtherProcess], wal: bool
) -> None:
    path = tmp_path / "sessions.db"
    acknowledged = []
    for number, process in enumerate(others):
        scope = f"owner-{number}"
        process.ask(open_store, path, make_owner(scope), "namespace", wal)
        acknowledged += [process.ask(insert, make_session(p, scope=scope)) for p in "abc"]
        process.kill()
    found = rows(path, "SELECT session_id FROM nbsessions_session ORDER BY seq")
    assert [row[0] for row in found] == [session.session_id for session in acknowledged]
