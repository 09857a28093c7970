"""What the command line reads from PostgreSQL, beside others that use it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from nbsessions.stores.postgres import schema
from nbsessions.stores.postgres.inspection import PostgresInspection, inspection_from_url
from support.operators import make_tables
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
