"""Several real processes on one database: no write is lost, and the tables are made once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from nbsessions.stores.postgres import schema
from support.postgres import shared_cluster
from support.store_processes import (
    OtherProcess,
    close_store,
    hammer,
    insert,
    list_sessions,
    open_store,
    other_process,
    stall_in_a_transaction,
)
from support.values import make_owner, make_session

ROUNDS = 10


@pytest.fixture
def url() -> str:
    """A database without tables."""
    return shared_cluster().make_schema()


def processes(count: int, stack: ExitStack) -> list[OtherProcess]:
    return [stack.enter_context(other_process()) for _ in range(count)]


@pytest.fixture
def others() -> Iterator[list[OtherProcess]]:
    with ExitStack() as stack:
        yield processes(4, stack)


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[arg-type]


def test_nothing_is_lost_when_several_processes_write(
    url: str, others: list[OtherProcess]
) -> None:
    for number, process in enumerate(others):
        process.tell(hammer, url, f"owner-{number}", ROUNDS)
    kept = {f"owner-{number}": process.answer() for number, process in enumerate(others)}
    assert sum(map(len, kept.values())) == len(others) * ROUNDS * 3
    others[0].kill()
    for process in others[1:]:
        process.ask(close_store)
    found = rows(url, "SELECT scope, session_id FROM nbsessions_session ORDER BY seq")
    # Processes that closed had no running kernels. The killed one left its acknowledged writes.
    assert found == [("owner-0", session_id) for session_id in kept["owner-0"]]
    assert rows(url, "SELECT 1 FROM nbsessions_intent WHERE verb = 'start'") == []


def test_twenty_processes_make_the_tables_of_an_empty_database_once(url: str) -> None:
    with ExitStack() as stack:
        others = processes(20, stack)
        for number, process in enumerate(others):
            process.tell(open_store, url, make_owner(f"owner-{number}"))
        for process in others:
            process.answer()
        for number, process in enumerate(others):
            session = process.ask(insert, make_session("a", scope=f"owner-{number}"))
            assert process.ask(list_sessions) == [session]
    assert rows(url, "SELECT value FROM nbsessions_meta WHERE key = 'schema'") == [
        (len(schema.MIGRATIONS),)
    ]
    assert rows(url, "SELECT COUNT(*) FROM nbsessions_session") == [(20,)]


@pytest.mark.alone
def test_a_process_that_stalls_in_a_transaction_stops_no_other_for_long(
    url: str, others: list[OtherProcess]
) -> None:
    stalled, other = others[:2]
    for number, process in enumerate((stalled, other)):
        process.ask(open_store, url, make_owner(f"owner-{number}"))
    stalled.tell(stall_in_a_transaction, make_session("b", scope="owner-0"))
    deadline = time.monotonic() + 30
    while not rows(url, "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    begun = time.monotonic()
    other.ask(insert, make_session("a", scope="owner-1"))
    assert time.monotonic() - begun < 5
    stalled.resume()
    session = stalled.answer()
    assert stalled.ask(list_sessions) == [session]
