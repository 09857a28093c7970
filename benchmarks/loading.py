"""How much later a server answers its first request because it loads the extension."""

from __future__ import annotations

import itertools
import signal
import time
import urllib.error
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.initializing import initialize_in_new_process
from benchmarks.measurement import Measurement, in_turns
from benchmarks.processor import processor_time
from benchmarks.subjects import bare_extensions, bare_server

ROUNDS = 15
_TARGET = 20.0


class Starts:
    """Starts servers one after the other, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self.processor: dict[str, list[float]] = {"ours": [], "stock": []}

    def start(self, name: str) -> float:
        """Return the milliseconds until the server answers, and note its processor time."""
        server = bare_server(self._folder / str(next(self._numbers)), ours=name == "ours")
        begun = time.perf_counter()
        server.start()
        try:
            while time.perf_counter() - begun < 60:
                try:
                    server.request("GET", "/api/me")
                except urllib.error.URLError:
                    time.sleep(0.001)
                else:
                    taken = time.perf_counter() - begun
                    self.processor[name].append(processor_time(server.process.pid) * 1000)
                    return taken * 1000
            raise TimeoutError("the server did not answer")
        finally:
            server.end(signal.SIGKILL)


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    starts = Starts(folder)
    for name in starts.processor:
        starts.start(name)  # compiles what has changed
        starts.processor[name].clear()
    values = in_turns(
        rounds, {"ours": lambda: starts.start("ours"), "stock": lambda: starts.start("stock")}
    )
    yield Measurement(
        name="start until a request is answered",
        unit="ms",
        values=values,
        difference=True,
        at_most=_TARGET,
    )
    yield Measurement(
        name="processor time of the start", unit="ms", values=starts.processor, difference=True
    )
    loaded = {"ours": bare_extensions(ours=True), "stock": bare_extensions(ours=False)}
    initialized = {
        name: partial(initialize_in_new_process, folder, extensions)
        for name, extensions in loaded.items()
    }
    for initialize in initialized.values():
        initialize()
    yield Measurement(
        name="ServerApp.initialize alone",
        unit="ms",
        values=in_turns(rounds, initialized),
        difference=True,
        at_most=_TARGET,
    )
