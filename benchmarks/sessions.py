"""Compares the speed of our session manager with jupyter_server's own. Both use a file.

Run it in an environment that has nbsessions and jupyter_server: python -m benchmarks.sessions
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.setting import describe, our_manager, stock_manager

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


async def measure(subject: Subject, operation: Operation, count: int) -> float:
    """Return the seconds that one operation takes.

    Reads run once before the clock starts, because the garbage collection has just flushed the
    processor's caches.
    """
    gc.collect()
    if operation in (list_all, get_by_path):
        await operation(subject, 1)
    start = time.perf_counter()
    await operation(subject, count)
    return (time.perf_counter() - start) / count


async def compare(ours: Subject, stock: Subject, size: int, rounds: int) -> dict[str, Any]:
    """Return the medians of ours and of stock for each operation, measured alternately."""
    seconds: dict[str, tuple[list[float], list[float]]] = {}
    await ours.fill(size)
    await stock.fill(size)
    for number in range(rounds):
        for name, (operation, count) in counts(size).items():
            found = seconds.setdefault(name, ([], []))
            turns = [(ours, found[0]), (stock, found[1])]
            for subject, times in turns if number % 2 else reversed(turns):
                times.append(await measure(subject, operation, count))
    return {name: tuple(map(statistics.median, times)) for name, times in seconds.items()}


@contextlib.asynccontextmanager
async def subjects(folder: Path) -> AsyncIterator[tuple[Subject, Subject]]:
    ours, stock = our_manager(folder), stock_manager(folder)
    await ours.open()
    try:
        yield Subject(ours), Subject(stock)
    finally:
        ours.close()
        stock.close()


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3f}"


async def main(folder: Path, rounds: int) -> int:
    print(describe(folder))
    print(
        f"medians of {rounds} alternating rounds; ratio = stock / ours (above 1: ours is faster)\n"
    )
    print(f"{'sessions':>8}  {'operation':<12} {'ours ms':>10} {'stock ms':>10} {'ratio':>8}")
    missed = []
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            async with subjects(Path(place)) as (ours, stock):
                for name, (mine, theirs) in (await compare(ours, stock, size, rounds)).items():
                    ratio = theirs / mine
                    print(
                        f"{size:>8}  {name:<12} {milliseconds(mine):>10} "
                        f"{milliseconds(theirs):>10} {ratio:>8.2f}",
                        flush=True,
                    )
                    if ratio < target(name, size):
                        missed.append(f"{name} at {size}: {ratio:.2f} < {target(name, size)}")
    print("\nTargets:", "all reached" if not missed else "missed: " + "; ".join(missed))
    return bool(missed)


def target(operation: str, size: int) -> float:
    """Return the ratio to reach: lists must be faster; creates, gets and updates no slower."""
    if operation == "list":
        return LIST_TARGET if size == LIST_TARGET_SIZE else 0.0
    return 0.0 if operation == "delete" else 1.0 - NOISE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.folder, arguments.rounds)))
