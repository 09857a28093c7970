"""What a session costs beyond its kernel: ``POST /api/sessions`` against ``POST /api/kernels``.

The kernels are real ones. Each is ended before the next one starts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks.filling import Fetcher
from benchmarks.measurement import Measurement, choose, in_turns
from benchmarks.subjects import bare_server, running

ROUNDS = 60
_TARGET = 2.0


class Creations:
    """Creates sessions and kernels in one server."""

    def __init__(self, port: int) -> None:
        self._fetcher = Fetcher(port)
        self._numbers = itertools.count()

    def session(self) -> float:
        """Return the milliseconds of the request for a session."""
        path = f"notebook-{next(self._numbers)}.ipynb"
        kernel = {"name": "python3"}
        body = {"path": path, "name": path, "type": "notebook", "kernel": kernel}
        return self._create("/api/sessions", body)

    def kernel(self) -> float:
        """Return the milliseconds of the request for a kernel."""
        return self._create("/api/kernels", {"name": "python3"})

    def _create(self, path: str, body: object) -> float:
        begun = time.perf_counter()
        model = self._fetcher.model("POST", path, body)
        taken = time.perf_counter() - begun
        self._fetcher.model("DELETE", f"{path}/{model['id']}")
        return taken * 1000


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    measures: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        for name in ("stock", "ours"):
            # Kernels would inherit a core of its own.
            server = bare_server(folder / name, ours=name == "ours", core=None)
            stack.enter_context(running(server))
            creations = Creations(server.port)
            for _ in range(2):
                creations.session()
                creations.kernel()
            measures[f"{name}, session"] = creations.session
            measures[f"{name}, kernel"] = creations.kernel
        values = in_turns(rounds, measures)
    row = partial(Measurement, name="create with a python3 kernel", unit="ms", difference=True)
    yield row(values=choose(values, "ours, session", "ours, kernel"), at_most=_TARGET)
    yield row(values=choose(values, "stock, session", "stock, kernel"))
