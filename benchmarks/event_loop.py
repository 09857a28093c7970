"""Measures how long creating, listing and deleting sessions in a file blocks the event loop.

Run it in an environment that has nbsessions and jupyter_server: python -m benchmarks.event_loop

There are three measures. They include the time spent waiting for other threads, and the time
that this script itself spends on the loop:

- callback: the duration of one callback, or of one step of a task.
- blocked: the time from one poll of the sockets to the next, without the poll itself. A request
  that arrives at the worst moment waits this long. Many short callbacks that are ready at the same
  time add up.
- collector: the time that Python's garbage collector takes. It is included in the other two. A
  full collection visits all objects of the process, which belong to the server, so it takes as
  long without nbsessions.

The last column is "blocked" without the collector. The target applies to it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import selectors
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from jupyter_client.jsonutil import json_default

from benchmarks.setting import describe, our_manager, stock_manager
from nbsessions.handlers.models import reply_model

SESSIONS = 1000
TARGET = 0.020


class WatchedSelector(selectors.DefaultSelector):
    """Records the time from one select to the next, and the garbage collector's share of it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked: list[float] = []
        self.collector: list[float] = []
        self._returned: float | None = None
        self._collecting = 0.0
        self._collected = 0.0
        gc.callbacks.append(self._note_collection)

    def _note_collection(self, phase: str, _: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if phase == "start":
            self._collecting = time.perf_counter()
        else:
            self._collected += time.perf_counter() - self._collecting

    def select(self, timeout: float | None = None) -> Any:
        if self._returned is not None:
            self.blocked.append(time.perf_counter() - self._returned)
            self.collector.append(self._collected)
        events = super().select(timeout)
        self._returned = time.perf_counter()
        self._collected = 0.0
        return events

    def clear(self) -> None:
        self.blocked.clear()
        self.collector.clear()
        self._returned = None


class Watch:
    """Records the durations of all callbacks, in addition to what the selector records."""

    def __init__(self, selector: WatchedSelector) -> None:
        self._selector = selector
        self._run = asyncio.Handle._run  # noqa: SLF001  # there is no public hook
        self._callbacks: list[float] = []

    def install(self) -> None:
        def run(handle: asyncio.Handle) -> None:
            start = time.perf_counter()
            self._run(handle)
            self._callbacks.append(time.perf_counter() - start)

        asyncio.Handle._run = run  # type: ignore[method-assign]  # noqa: SLF001

    async def clear(self) -> None:
        """Discard all measurements, including that of the current step."""
        await asyncio.sleep(0)
        self._callbacks.clear()
        self._selector.clear()

    async def report(self, who: str, what: str) -> float:
        """Print one line. Return the longest time blocked, without the collector."""
        await asyncio.sleep(0)
        blocked, collector = self._selector.blocked, self._selector.collector
        without = [total - part for total, part in zip(blocked, collector, strict=True)]
        columns = [_figures(each) for each in (self._callbacks, blocked, collector, without)]
        print(f"{who:<6} {what:<24} {'  '.join(columns)}", flush=True)
        return max(without)


def _figures(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{ordered[-1] * 1000:>9.2f} {ordered[len(ordered) * 99 // 100] * 1000:>7.2f}"


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
    return msgspec.json.encode([reply_model(model) for model in models])


def stock_reply(models: list[Any]) -> bytes:
    """Return the response body of the list, as jupyter_server's handler encodes it."""
    return json.dumps(models, default=json_default).encode()


async def exercise(
    watch: Watch, who: str, manager: Any, reply: Callable[[list[Any]], bytes]
) -> float:
    """Create, list and delete, with one client and with many. Return the longest time blocked."""
    numbers = itertools.count()
    longest = 0.0
    for width in (1, 32):
        await watch.clear()
        created = await run_concurrently(
            width, lambda number: create(manager, number), [next(numbers) for _ in range(SESSIONS)]
        )
        longest = max(longest, await watch.report(who, f"create, {width} at a time"))
        await watch.clear()
        for _ in range(50):
            assert reply(await manager.list_sessions())
            await asyncio.sleep(0)
        longest = max(longest, await watch.report(who, "list and encode"))
        await watch.clear()
        await run_concurrently(width, manager.delete_session, created)
        longest = max(longest, await watch.report(who, f"delete, {width} at a time"))
    return longest


async def main(watch: Watch, folder: Path) -> int:
    print(describe(folder))
    print(f"{SESSIONS} sessions; the maximum and the 99th percentile of each measure, in ms\n")
    titles = ("callback", "blocked", "collector", "the rest")
    print(f"{'':<31} {'  '.join(f'{title:>9}     p99' for title in titles)}")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        ours, stock = our_manager(Path(place)), stock_manager(Path(place))
        await ours.open()
        blocked = await exercise(watch, "ours", ours, our_reply)
        await exercise(watch, "stock", stock, stock_reply)
        ours.close()
        stock.close()
    print(f"\nOurs: at most {blocked * 1000:.2f} ms blocked without the collector, ", end="")
    print(f"target: {TARGET * 1000:.0f} ms")
    return int(blocked > TARGET)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How long the event loop is blocked.")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    selector = WatchedSelector()
    watch = Watch(selector)
    watch.install()
    loop = asyncio.SelectorEventLoop(selector)
    try:
        sys.exit(loop.run_until_complete(main(watch, arguments.folder)))
    finally:
        loop.close()
