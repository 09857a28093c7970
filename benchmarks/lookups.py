"""Gets single sessions among 100 and among 100,000.

It is measured in process, with kernels that are made up: what our session manager does for
``GET /api/sessions/ID``, ``?path=`` and ``?kernel_id=``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.many import ManySessions, get_seconds, path_of
from benchmarks.measurement import Measurement, choose, in_turns
from benchmarks.setting import our_manager
from nbsessions import AsyncSessionManager

ROUNDS = 15
FEW, MANY = 100, 100_000
_TARGET = 1.3


class Lookups:
    """Measures lookups in one store, with few and with many sessions."""

    def __init__(self, store: str, few: AsyncSessionManager, many: AsyncSessionManager) -> None:
        self._store = store
        self._sessions = {
            size: ManySessions(manager, size) for size, manager in ((FEW, few), (MANY, many))
        }

    def measure(self, rounds: int) -> Iterator[Measurement]:
        loop = asyncio.new_event_loop()
        try:
            for size, sessions in self._sessions.items():
                loop.run_until_complete(sessions.fill(size))
            for column in ("path", "session_id", "kernel_id"):
                yield self._row(column, in_turns(rounds, self._measures(loop, column)))
        finally:
            for sessions in self._sessions.values():
                sessions.manager.close()
            loop.close()

    def _measures(
        self, loop: asyncio.AbstractEventLoop, column: str
    ) -> dict[str, Callable[[], float]]:
        def measure(sessions: ManySessions, size: int) -> float:
            numbers = range(0, size, size // FEW)
            columns = {"session_id": sessions.session_ids, "kernel_id": sessions.kernel_ids}
            found = columns.get(column)
            values = [found[number] if found else path_of(number) for number in numbers]
            return loop.run_until_complete(get_seconds(sessions, column, values)) * 1e6

        return {
            f"of {size}": partial(measure, sessions, size)
            for size, sessions in self._sessions.items()
        }

    def _row(self, column: str, values: dict[str, list[float]]) -> Measurement:
        return Measurement(
            name=f"get by {column}, {self._store}",
            unit="us",
            values=choose(values, f"of {MANY}", f"of {FEW}"),
            at_most=_TARGET,
        )


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    for size in (FEW, MANY):
        (folder / str(size)).mkdir()
    managers = [our_manager(folder / str(size)) for size in (FEW, MANY)]
    yield from Lookups("SQLite", *managers).measure(rounds)
