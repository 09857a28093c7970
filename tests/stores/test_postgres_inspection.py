"""What the command line reads from PostgreSQL, beside others that use it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from nbsessions.stores.postgres import schema
from nbsessions.stores.postgres.inspection import PostgresInspection, inspection_from_url
from support.operators import make_tables, query
from support.postgres import shared_cluster
from support.waiting import wait_until


@pytest.fixture
def url() -> str:
    """A database without rows."""
    url = shared_cluster().make_schema()
    make_tables(url)
    return url


@pytest.mark.parametrize("read", [PostgresInspection.read_contents, PostgresInspection.examine])
def test_tables_are_read_in_the_order_in_which_migrations_lock_them(
    url: str, read: Callable[[PostgresInspection], object]
) -> None:
    """Otherwise both would wait for each other, and the database would end one of them."""
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    with ThreadPoolExecutor(1) as threads, psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE nbsessions_owner")
        reading = threads.submit(read, inspection_from_url(url))
        wait_until(lambda: connection.execute(waits, ["nbsessions_owner"]).fetchone(), "it waits")
        for table in schema.ISOLATED[2:]:
            connection.execute(f"LOCK TABLE {table} NOWAIT")  # type: ignore[arg-type]
        connection.commit()
        assert reading.result() is not None


SESSION = """INSERT INTO nbsessions_session (namespace, session_id, scope, provider, kernel_id,
    created, last_activity) VALUES (%s, %s, 'x', 'x', 'x', %s, %s)"""
OWNER = """INSERT INTO nbsessions_owner (owner, namespace, scope, provider, host, boot, process,
    heartbeat, written) VALUES (%s, %s, 'x', '', '', '', '', %s, 0)"""


@pytest.mark.parametrize("time", ["infinity", "-infinity", "12000-01-01Z", "0001-01-01Z BC"])
def test_rows_with_impossible_times_are_left_out_and_named(
    url: str, time: str, caplog: pytest.LogCaptureFixture
) -> None:
    query(url, SESSION, "ada", "good", "2026-01-01Z", "2026-01-01Z")
    query(url, SESSION, "bob", "bad creation", time, "2026-01-01Z")
    query(url, SESSION, "bob", "bad activity", "2026-01-01Z", time)
    query(url, OWNER, "good owner", "ada", "2026-01-01Z")
    query(url, OWNER, "bad owner", "bob", time)
    with caplog.at_level(logging.WARNING):
        contents = inspection_from_url(url).read_contents()
    assert [each.session.session_id for each in contents.sessions] == ["good"]
    assert [each.owner.owner_id for each in contents.owners] == ["good owner"]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.partition("left out: ")[2] for message in messages] == [
        "the owner 'bad owner' in the namespace 'bob' has an impossible time",
        "the session 'bad activity' in the namespace 'bob' has an impossible time",
        "the session 'bad creation' in the namespace 'bob' has an impossible time",
    ]
    caplog.clear()
    assert len(inspection_from_url(url).read_contents("ada").sessions) == 1
    assert not caplog.records
