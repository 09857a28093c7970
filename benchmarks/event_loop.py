"""Measures how long creating, listing and deleting sessions in a file blocks the event loop.

This is measured in process. All measures include the time spent waiting for other threads, and the
time that this program itself spends on the loop. A callback may also be one step of a task. The
others are explained in ``blocking``. The target applies to "blocked" without the collector.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import selectors
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from jupyter_client.jsonutil import json_default

from benchmarks.blocking import BlockingWatch
from benchmarks.measurement import Measurement
from benchmarks.setting import our_manager, stock_manager

ROUNDS = 3
SESSIONS = 1000
_TARGET = 20.0


class Watch:
    """Records the durations of all callbacks, in addition to how long the loop is blocked."""

    def __init__(self, blocking: BlockingWatch) -> None:
        self._blocking = blocking
        self._run = asyncio.Handle._run  # noqa: SLF001  # there is no public hook
        self._callbacks: list[float] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Record callbacks while in the body."""

        def run(handle: asyncio.Handle) -> None:
            start = time.perf_counter()
            self._run(handle)
            self._callbacks.append(time.perf_counter() - start)

        asyncio.Handle._run = run  # type: ignore[method-assign,assignment]  # noqa: SLF001
        try:
            yield
        finally:
            asyncio.Handle._run = self._run  # type: ignore[method-assign]  # noqa: SLF001

    async def clear(self) -> None:
        """Discard all measurements, including that of the current step."""
        await asyncio.sleep(0)
        self._callbacks.clear()
        self._blocking.clear()

    async def longest(self) -> dict[str, float]:
        """Return the longest of each measure, in milliseconds."""
        await asyncio.sleep(0)
        measures = {
            "callback": self._callbacks,
            "blocked": self._blocking.blocked,
            "collector": self._blocking.collector,
            "without collector": self._blocking.without_collector,
        }
        return {name: max(seconds) * 1000 for name, seconds in measures.items()}


async def create(manager: Any, number: int) -> str:
    model = await manager.create_session(
        path=f"folder/notebook-{number}.ipynb",
        name=f"notebook-{number}.ipynb",
        type="notebook",
        kernel_name="python3",
    )
    session_id: str = model["id"]
    return session_id


async def run_concurrently(
    width: int, operation: Callable[[Any], Awaitable[Any]], items: list[Any]
) -> list[Any]:
    """Apply the operation to all items with ``width`` workers. Return the results in any order."""
    results = []
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            results.append(await operation(item))
            # Yield, as between two requests. The stock manager never yields to the loop by itself.
            await asyncio.sleep(0)

    await asyncio.gather(*[work() for _ in range(width)])
    return results


def our_reply(models: list[Any]) -> bytes:
    """Return the response body of the list, as our handler encodes it."""
    return msgspec.json.encode(models)


def stock_reply(models: list[Any]) -> bytes:
    """Return the response body of the list, as jupyter_server's handler encodes it."""
    return json.dumps(models, default=json_default).encode()


async def exercise(
    watch: Watch, manager: Any, reply: Callable[[list[Any]], bytes]
) -> dict[str, dict[str, float]]:
    """Create, list and delete, with one client and with many. Return the longest of each."""
    numbers = itertools.count()
    found = {}
    for width in (1, 32):
        await watch.clear()
        created = await run_concurrently(
            width, lambda number: create(manager, number), [next(numbers) for _ in range(SESSIONS)]
        )
        found[f"create, {width} at a time"] = await watch.longest()
        await watch.clear()
        for _ in range(50):
            assert reply(await manager.list_sessions())
            await asyncio.sleep(0)
        found["list and encode"] = await watch.longest()
        await watch.clear()
        await run_concurrently(width, manager.delete_session, created)
        found[f"delete, {width} at a time"] = await watch.longest()
    return found


async def exercise_both(
    watch: Watch, folder: Path
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours, stock = our_manager(Path(place)), stock_manager(Path(place))
        await ours.open()
        found = await exercise(watch, ours, our_reply), await exercise(watch, stock, stock_reply)
        ours.close()
        stock.close()
    return found


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    selector = selectors.DefaultSelector()
    watch = Watch(BlockingWatch(selector))
    loop = asyncio.SelectorEventLoop(selector)
    with watch.installed():
        found = [loop.run_until_complete(exercise_both(watch, folder)) for _ in range(rounds)]
    loop.close()
    for operation, measures in found[0][0].items():
        for name in measures:
            values = {
                "ours": [ours[operation][name] for ours, _ in found],
                "stock": [stock[operation][name] for _, stock in found],
            }
            yield Measurement(
                name=f"{operation}: {name}", unit="ms", values=values, difference=True
            )
    longest = [max(each["without collector"] for each in ours.values()) for ours, _ in found]
    yield Measurement(
        name="longest of all without collector",
        unit="ms",
        values={"ours": longest},
        at_most=_TARGET,
    )
