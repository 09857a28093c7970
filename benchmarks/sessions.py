"""Compares the speed of our session manager with jupyter_server's own. Both use a file.

This is measured in process. The ratio is that of stock to ours: above 1, ours is faster.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement
from benchmarks.setting import our_manager, stock_manager

ROUNDS = 15
SIZES = (10, 100, 1000, 10000)
LIST_TARGET_SIZE, LIST_TARGET = 1000, 5.0
NOISE = 0.05
"""How far below 1 a ratio may be and still count as 1."""

Operation = Callable[["Subject", int], Awaitable[None]]


class Subject:
    """A session manager and the ids of its sessions."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.session_ids: list[str] = []
        self._numbers = itertools.count()

    async def create(self) -> None:
        number = next(self._numbers)
        model = await self.manager.create_session(
            path=f"folder/notebook-{number}.ipynb",
            name=f"notebook-{number}.ipynb",
            type="notebook",
            kernel_name="python3",
        )
        self.session_ids.append(model["id"])

    async def fill(self, size: int) -> None:
        with self._fewer_commits():
            while len(self.session_ids) < size:
                count = min(500, size - len(self.session_ids))
                await asyncio.gather(*[self.create() for _ in range(count)])

    @contextlib.contextmanager
    def _fewer_commits(self) -> Any:
        # Ours commits concurrent writes together. The stock manager needs an explicit transaction.
        cursor = getattr(self.manager, "cursor", None)
        if cursor is not None:
            cursor.execute("BEGIN")
        yield
        if cursor is not None:
            cursor.execute("COMMIT")


async def list_all(subject: Subject, count: int) -> None:
    for _ in range(count):
        models = await subject.manager.list_sessions()
        assert len(models) == len(subject.session_ids)


async def get_by_path(subject: Subject, count: int) -> None:
    step = max(1, len(subject.session_ids) // count)
    for number in range(count):
        path = f"folder/notebook-{number * step % len(subject.session_ids)}.ipynb"
        model = await subject.manager.get_session(path=path)
        assert model["path"] == path


async def create(subject: Subject, count: int) -> None:
    for _ in range(count):
        await subject.create()


async def update(subject: Subject, count: int) -> None:
    for session_id in subject.session_ids[-count:]:
        await subject.manager.update_session(session_id, name=f"{time.perf_counter_ns()}.ipynb")


async def delete(subject: Subject, count: int) -> None:
    for _ in range(count):
        await subject.manager.delete_session(subject.session_ids.pop())


def counts(size: int) -> dict[str, tuple[Operation, int]]:
    """Return the operations, and how often each runs per round. Deletes undo creates."""
    return {
        "list": (list_all, max(5, 10000 // size)),
        "get by path": (get_by_path, 50),
        "create": (create, 20),
        "update": (update, 20),
        "delete": (delete, 20),
    }


async def milliseconds(subject: Subject, operation: Operation, count: int) -> float:
    """Return the milliseconds that one operation takes.

    Reads run once before the clock starts, because the garbage collection has just flushed the
    processor's caches.
    """
    gc.collect()
    if operation in (list_all, get_by_path):
        await operation(subject, 1)
    start = time.perf_counter()
    await operation(subject, count)
    return (time.perf_counter() - start) / count * 1000


async def compare(
    ours: Subject, stock: Subject, size: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Return the times of stock and of ours for each operation, measured alternately."""
    times: dict[str, dict[str, list[float]]] = {}
    await ours.fill(size)
    await stock.fill(size)
    for number in range(rounds):
        for name, (operation, count) in counts(size).items():
            found = times.setdefault(name, {"stock": [], "ours": []})
            turns = [(ours, found["ours"]), (stock, found["stock"])]
            for subject, values in turns if number % 2 else reversed(turns):
                values.append(await milliseconds(subject, operation, count))
    return times


@contextlib.asynccontextmanager
async def subjects(folder: Path) -> AsyncIterator[tuple[Subject, Subject]]:
    ours, stock = our_manager(folder), stock_manager(folder)
    await ours.open()
    try:
        yield Subject(ours), Subject(stock)
    finally:
        ours.close()
        stock.close()


async def measure_size(size: int, rounds: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        async with subjects(Path(place)) as (ours, stock):
            return await compare(ours, stock, size, rounds)


def target(operation: str, size: int) -> float:
    """Return the ratio to reach: lists must be faster; creates, gets and updates no slower."""
    if operation == "list":
        return LIST_TARGET if size == LIST_TARGET_SIZE else 0.0
    return 0.0 if operation == "delete" else 1.0 - NOISE


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    for size in SIZES:
        for name, values in asyncio.run(measure_size(size, rounds, folder)).items():
            yield Measurement(
                name=f"{name}, {size} sessions",
                unit="ms",
                values=values,
                at_least=target(name, size) or None,
            )
