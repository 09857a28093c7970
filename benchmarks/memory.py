"""The memory that sessions need, and whether a server that creates and deletes them grows.

This is measured through our session manager, in a process of its own for each value, and with
kernels that are made up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.many import bytes_per_session, growth
from benchmarks.measurement import Measurement, in_turns
from benchmarks.setting import our_manager

ROUNDS = 1
KERNELS, MANY, CYCLES = 1000, 100_000, 100_000
_MEMORY_TARGET, _GROWTH_TARGET = 2.0, 1.0

Measure = Callable[..., Coroutine[Any, Any, float]]


def in_new_process(measure: Measure, folder: Path, *arguments: object) -> float:
    """Run the coroutine in a process of its own, with a manager on a new file."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run, measure, folder, *arguments).result()


def _run(measure: Measure, folder: Path, *arguments: object) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        return asyncio.run(measure(our_manager(Path(place)), *arguments))


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    per_session = partial(in_new_process, bytes_per_session, folder, KERNELS, MANY)
    yield Measurement(
        name=f"one of {MANY} sessions",
        unit="kB",
        values=in_turns(rounds, {"ours": lambda: per_session() / 1e3}),
        at_most=_MEMORY_TARGET,
    )
    grown = partial(in_new_process, growth, folder, CYCLES)
    yield Measurement(
        name=f"growth by {CYCLES} creates and deletes",
        unit="MB",
        values=in_turns(rounds, {"ours": lambda: grown() / 1e6}),
        at_most=_GROWTH_TARGET,
    )
