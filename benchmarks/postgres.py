"""The PostgreSQL store with many namespaces, against the same on an empty database.

Needs the environment of the tests. The PostgreSQL server is one of its own, which syncs its files.
Each operation is measured as often as there are rounds. Sessions are also created by one server,
and by many servers at once, each in a namespace of its own.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psutil
import psycopg

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from benchmarks.measurement import Measurement  # noqa: E402
from nbsessions.models import Session  # noqa: E402
from nbsessions.stores.postgres import PostgresSessionStore  # noqa: E402
from nbsessions.stores.postgres.settings import connection_settings  # noqa: E402
from support.postgres import running_cluster  # noqa: E402  # found by the lines before
from support.values import make_id, make_owner, make_session, make_start  # noqa: E402

ROUNDS = 200
NAMESPACES, SESSIONS = 1000, 100
"""How many namespaces there are, and how many sessions in each."""
SERVERS, PROCESSES = 50, 4
"""How many servers create sessions at once, and how many processes they are in."""
SYNC = 10.0
"""The milliseconds that the disk takes for a sync while they do."""

LOG = logging.getLogger("benchmark")

FILL = """INSERT INTO nbsessions_session (namespace, session_id, scope, provider, path, document,
    name, type, kernel_id, kernel_name, created, last_activity)
    SELECT 'n' || n, gen_random_uuid(), 'o' || n, 'local:', p || '.ipynb', p || '.ipynb', p || '',
    'notebook', gen_random_uuid(), 'python3', now(), now()
    FROM generate_series(1, %s) AS n, generate_series(1, %s) AS p"""
FILL_KERNELS = """INSERT INTO nbsessions_kernel (kernel_id, namespace)
    SELECT kernel_id, namespace FROM nbsessions_session ON CONFLICT DO NOTHING"""


async def open_store(url: str, namespace: str) -> PostgresSessionStore:
    store = PostgresSessionStore(connection_settings(url), namespace, log=LOG)
    await store.open(make_owner(namespace))
    return store


async def create(store: PostgresSessionStore, scope: str, path: str) -> Session:
    """Create a session as a server does: an intent, then the session."""
    start = make_start(path, scope=scope)
    await store.acquire(start)
    return await store.commit(start.token, make_session(path, scope=scope))


async def milliseconds(url: str, sessions: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each operation, with this number of own sessions."""
    store = await open_store(url, "own")
    for number in range(sessions):
        await create(store, "own", f"{number}.ipynb")
    times: dict[str, list[float]] = {}

    async def timed(name: str, operation: Callable[[], Awaitable[object]]) -> object:
        begun = time.perf_counter()
        outcome = await operation()
        times.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
        return outcome

    for number in range(rounds):
        await timed("list", store.list_sessions)
        await timed("get by path", lambda: store.list_by_document("1.ipynb"))
        session = await timed("create", partial(create, store, "own", f"new {number}"))
        assert isinstance(session, Session)
        delete = partial(store.delete, session.session_id, stop_token=make_id())
        await timed("delete", delete)
    store.close()
    return times


def rate(url: str, servers: int, seconds: float, processes: int = 1) -> float:
    """Return how many sessions these servers create in a second, each one after the other."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    counts = context.SimpleQueue()
    workers = [
        context.Process(
            target=create_many,
            args=(url, range(number, servers, processes), seconds, barrier, counts),
        )
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    total: int = sum(counts.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total / seconds


def create_many(
    url: str, servers: range, seconds: float, barrier: Barrier, counts: SimpleQueue[int]
) -> None:
    """Create sessions in the stores of these servers, in one process."""
    counts.put(asyncio.run(create_in_all(url, servers, seconds, barrier)))


async def create_in_all(url: str, servers: range, seconds: float, barrier: Barrier) -> int:
    stores = [(f"s{number}", await open_store(url, f"s{number}")) for number in servers]
    await asyncio.to_thread(barrier.wait, 60)
    end = time.perf_counter() + seconds

    async def work(scope: str, store: PostgresSessionStore) -> int:
        count = 0
        while time.perf_counter() < end:
            await create(store, scope, make_id())
            count += 1
        return count

    counts = await asyncio.gather(*(work(*each) for each in stores))
    for _, store in stores:
        store.close()
    return sum(counts)


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    with running_cluster(max_connections="400") as cluster:
        empty, full = cluster.make_schema(), cluster.make_schema()
        rate(full, 1, 0.1)  # makes the tables
        with psycopg.connect(full) as connection:
            connection.execute(FILL, (NAMESPACES, SESSIONS))
            connection.execute(FILL_KERNELS)
        with psycopg.connect(full, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        before = asyncio.run(milliseconds(empty, SESSIONS, rounds))
        after = asyncio.run(milliseconds(full, SESSIONS, rounds))
    for name, values in before.items():
        yield Measurement(name=name, unit="ms", values={"full": after[name], "empty": values})
    # commit_delay makes each commit wait as for a slow disk. Commits that wait share one sync.
    slow = {"commit_delay": str(int(SYNC * 1000)), "commit_siblings": "0"}
    with running_cluster(max_connections="400", **slow) as cluster:
        one = rate(cluster.make_schema(), 1, 5.0)
        psutil.cpu_percent()
        many = rate(cluster.make_schema(), SERVERS, 5.0, PROCESSES)
        busy = psutil.cpu_percent()
    yield Measurement(
        name="creates",
        unit="1/s",
        values={f"{SERVERS} servers": [many], "1 server": [one]},
        note=f"processors {busy:.0f}% busy",
    )
