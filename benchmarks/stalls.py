"""The longest time that a server's event loop is blocked while sessions are created and listed.

In the same load without us, a server with the same kernels sends as many bytes for each list, and
answers ``/api/me`` for each session that would be created. The time of Python's garbage
collector does not count. Where gcc is installed, the same is measured with a slow disk.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.filling import Fetcher, Sessions
from benchmarks.measurement import Measurement, in_turns
from benchmarks.subjects import Subject, alone, subjects

ROUNDS = 7
KERNELS, SESSIONS = 1000, 10_000
SECONDS = 4.0
CREATES = 50
"""How many sessions are created in a second, each for a kernel that runs."""
POLLERS, INTERVAL = 20, 1.0
"""How many clients ask for the list, and how many seconds each waits before it asks again."""

_CREATORS = 10
_TARGET = 5.0


class Load:
    """What clients do with a server for some seconds."""

    def __init__(
        self, subject: Subject, poll: Callable[[], object], create: Callable[[int], object]
    ) -> None:
        self._subject = subject
        self._fetcher = Fetcher(subject.server.port)
        self._poll = poll
        self._create = create

    def longest(self, *others: Subject) -> float:
        """Return for how many milliseconds the loop was blocked at most."""
        with alone(self._subject, *others):
            self._fetcher.model("GET", "/benchmark/blocked")
            end = time.monotonic() + SECONDS
            with ThreadPoolExecutor(POLLERS + _CREATORS) as pool:
                running = [pool.submit(self._keep_polling, n, end) for n in range(POLLERS)]
                running += [pool.submit(self._keep_creating, n, end) for n in range(_CREATORS)]
                for each in running:
                    each.result()
            longest: float = self._fetcher.model("GET", "/benchmark/blocked")["longest"]
        return longest * 1000

    def _keep_polling(self, number: int, end: float) -> None:
        time.sleep(INTERVAL * number / POLLERS)
        while time.monotonic() < end:
            due = time.monotonic() + INTERVAL
            self._poll()
            time.sleep(max(0.0, due - time.monotonic()))

    def _keep_creating(self, number: int, end: float) -> None:
        due = time.monotonic() + number / CREATES
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            self._create(number)
            due += _CREATORS / CREATES


class OurLoad(Load):
    """Lists sessions, and creates some that it deletes in the end."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, self._list, self._create_one)
        self.sessions = Sessions(subject)
        self._lock = threading.Lock()
        self._created: list[str] = []
        self._number = 0

    def fill(self) -> None:
        self.sessions.fill(SESSIONS)

    def longest(self, *others: Subject) -> float:
        milliseconds = super().longest(*others)
        for session_id in self._created:
            self._fetcher.model("DELETE", f"/api/sessions/{session_id}")
        self._created.clear()
        return milliseconds

    def _list(self) -> None:
        self._fetcher.fetch("GET", "/api/sessions")

    def _create_one(self, _: int) -> None:
        with self._lock:
            self._number += 1
            path = f"new/notebook-{self._number}.ipynb"
        model = self.sessions.create(path, self._number)
        with self._lock:
            self._created.append(model["id"])


def without_us(subject: Subject, size: int) -> Load:
    """Return the load of a server that sends so many bytes for each list."""
    fetcher = Fetcher(subject.server.port)
    return Load(
        subject,
        lambda: fetcher.fetch("GET", f"/benchmark/send?size={size}"),
        lambda _: fetcher.fetch("GET", "/api/me"),
    )


def built_library(folder: Path) -> Path | None:
    """Return the library that makes disks slow, or None if it cannot be built here."""
    if not sys.platform.startswith("linux") or shutil.which("gcc") is None:
        return None
    library = folder / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    slow = folder / "slow"
    library = built_library(folder)
    environment = {"SLOW_SYNC_FILE": str(slow)}
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    with subjects(folder, KERNELS, environment=environment) as pair:
        ours = OurLoad(pair["ours"])
        ours.fill()
        Sessions(pair["stock"]).fill(KERNELS)
        baseline = without_us(pair["stock"], ours.sessions.list_length)

        def row(disk: str) -> Measurement:
            return Measurement(
                name=f"longest, {SESSIONS} sessions{disk}",
                unit="ms",
                values=in_turns(
                    rounds,
                    {
                        "ours": lambda: ours.longest(pair["stock"]),
                        "without us": lambda: baseline.longest(pair["ours"]),
                    },
                ),
                difference=True,
                at_most=_TARGET,
            )

        ours.longest(pair["stock"])
        baseline.longest(pair["ours"])
        yield row("")
        if library is None:
            print("(the same with a slow disk needs Linux and gcc)")
        else:
            slow.touch()
            yield row(", syncs take 50 ms")
