"""Requests to real servers: lists of sessions, single ones, and the least that a server does.

Stock and ours are processes with the same options and the same kernels, which have managers and
sockets, but no processes. Before anything is measured, both must list the same sessions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks import client
from benchmarks.extension.kernel_managers import AskedKernelManager
from benchmarks.filling import KERNELS, Sessions
from benchmarks.measurement import Measurement, choose, in_turns
from benchmarks.processor import processor_time
from benchmarks.server import AUTHORIZATION
from benchmarks.subjects import Subject, alone, subjects

ROUNDS = 7
SIZES = (0, 10, 100, 1000, 10000)
SECONDS = 0.5
PRINTING, RATE = 20, 50
"""How many kernels print, and how many lines a second each."""

_STOCK_TARGETS = {1000: 15.0, 10000: 40.0}
_SEND_TARGETS = {1000: 0.6}
_ME_TARGETS = {100: 0.7}
_UNCHANGED_TARGET = 0.9
_ASKED_TARGET = 3.0
_SHARE = 0.9
"""What share of its core a server needs at least while it is measured."""
_ASKED_OPTION = (
    "--ServerApp.kernel_manager_class="
    f"{AskedKernelManager.__module__}.{AskedKernelManager.__name__}"
)


class Requests:
    """Measures requests to stock and ours, which have the same sessions."""

    def __init__(self, pair: Mapping[str, Subject], rounds: int) -> None:
        self._pair = pair
        self._rounds = rounds
        self._shares: list[float] = []
        self._sessions = {name: Sessions(subject) for name, subject in pair.items()}

    def fill(self, size: int) -> None:
        """Create sessions until there are so many in both servers, which list the same then."""
        for sessions in self._sessions.values():
            sessions.fill(size)
        self.check()

    def check(self) -> None:
        """Raise an error unless both servers list the same sessions."""
        stock, ours = (sessions.compared() for sessions in self._sessions.values())
        if stock != ours:
            raise RuntimeError(f"the lists differ: {sorted(stock ^ ours)[:2]}")

    def rate(self, name: str, path: str, **headers: str) -> float:
        """Return how many of these requests the server answers in a second."""
        subject = self._pair[name]
        others = [each for each in self._pair.values() if each is not subject]
        request = client.get(path, {**AUTHORIZATION, **headers})
        port = subject.server.port
        pid = subject.server.process.pid
        with alone(subject, *others):
            client.rate(port, request, SECONDS / 5, maybe_unchanged=bool(headers))
            used, begun = processor_time(pid), time.perf_counter()
            found = client.rate(port, request, SECONDS, maybe_unchanged=bool(headers))
            taken = time.perf_counter() - begun
            self._shares.append((processor_time(pid) - used) / taken)
        return found

    def measure(self, **requests: Callable[[], float]) -> dict[str, list[float]]:
        """Measure requests in turns."""
        self._shares.clear()
        return in_turns(self._rounds, requests)

    @property
    def doubt(self) -> str:
        """Why not to trust what was measured last, or nothing."""
        share = statistics.median(self._shares)
        # Then the client or something else on the machine has limited the server.
        return f"servers had {share:.0%} of a core" if share < _SHARE else ""

    @property
    def list_length(self) -> int:
        """The number of bytes of our list."""
        return self._sessions["ours"].list_length

    def any_session(self, name: str) -> str:
        """Return the path of some session."""
        models = self._sessions[name].fetcher.model("GET", "/api/sessions")
        return f"/api/sessions/{models[len(models) // 2]['id']}"

    def if_changed(self, path: str) -> dict[str, str]:
        """Return the header that asks our server for this unless it is unchanged."""
        etag = self._sessions["ours"].fetcher.fetch("GET", path)[1].get("ETag")
        return {} if etag is None else {"If-None-Match": etag}

    def doubt_unchanged(self, path: str, headers: dict[str, str]) -> str:
        """Return why not to trust what was measured last with this header, or nothing."""
        if not headers:
            return "replies have no ETag"
        status = self._sessions["ours"].fetcher.fetch("GET", path, **headers)[0]
        return self.doubt if status == 304 else f"the status is {status}"


def lists(requests: Requests, size: int) -> Iterator[Measurement]:
    """Measure lists of so many sessions, and what the same server does at least."""
    if_changed = requests.if_changed("/api/sessions")
    values = requests.measure(
        stock=partial(requests.rate, "stock", "/api/sessions"),
        ours=partial(requests.rate, "ours", "/api/sessions"),
        send=partial(requests.rate, "ours", f"/benchmark/send?size={requests.list_length}"),
        me=partial(requests.rate, "ours", "/api/me"),
        unchanged=partial(requests.rate, "ours", "/api/sessions", **if_changed),
        kernels=partial(requests.rate, "ours", "/api/kernels"),
    )

    requests.check()
    row = partial(Measurement, name=f"list of {size}", unit="1/s")
    for other, targets in (
        ("stock", _STOCK_TARGETS),
        ("send", _SEND_TARGETS),
        ("me", _ME_TARGETS),
    ):
        at_least = targets.get(size)
        yield row(values=choose(values, "ours", other), at_least=at_least, note=requests.doubt)
    yield row(
        values=choose(values, "unchanged", "me"),
        at_least=_UNCHANGED_TARGET,
        note=requests.doubt_unchanged("/api/sessions", if_changed),
    )
    yield row(values=choose(values, "ours", "kernels"), note=requests.doubt)


def single(requests: Requests, size: int) -> Iterator[Measurement]:
    """Measure requests for one of so many sessions."""
    path = requests.any_session("ours")
    if_changed = requests.if_changed(path)
    values = requests.measure(
        stock=partial(requests.rate, "stock", requests.any_session("stock")),
        ours=partial(requests.rate, "ours", path),
        me=partial(requests.rate, "ours", "/api/me"),
        unchanged=partial(requests.rate, "ours", path, **if_changed),
    )
    row = partial(Measurement, name=f"one of {size}", unit="1/s")
    yield row(values=choose(values, "ours", "stock"), note=requests.doubt)
    yield row(values=choose(values, "ours", "me"), note=requests.doubt)
    yield row(
        values=choose(values, "unchanged", "me"),
        at_least=_UNCHANGED_TARGET,
        note=requests.doubt_unchanged(path, if_changed),
    )


def printing(requests: Requests, pair: Mapping[str, Subject], size: int) -> Iterator[Measurement]:
    """Measure lists of so many sessions while some of their kernels print."""
    for subject in pair.values():
        subject.kernels.print(PRINTING, RATE)
    values = requests.measure(
        stock=partial(requests.rate, "stock", "/api/sessions"),
        ours=partial(requests.rate, "ours", "/api/sessions"),
        send=partial(requests.rate, "ours", f"/benchmark/send?size={requests.list_length}"),
    )
    for subject in pair.values():
        subject.kernels.stop_printing()
    name = f"list of {size}, {PRINTING} kernels print"
    row = partial(Measurement, name=name, unit="1/s", note=requests.doubt)
    yield row(values=choose(values, "ours", "stock"), at_least=_STOCK_TARGETS[size] / 2)
    yield row(values=choose(values, "ours", "send"), at_least=_SEND_TARGETS[size] / 2)


def asked(folder: Path, size: int, rounds: int) -> Iterator[Measurement]:
    """Measure lists with a kernel manager that cannot tell which kernels have changed."""
    with subjects(folder, size, _ASKED_OPTION) as pair:
        requests = Requests(pair, rounds)
        requests.fill(size)
        values = requests.measure(
            ours=partial(requests.rate, "ours", "/api/sessions"),
            stock=partial(requests.rate, "stock", "/api/sessions"),
        )
    yield Measurement(
        name=f"list of {size}, models only asked for",
        unit="1/s",
        values=choose(values, "ours", "stock"),
        at_least=_ASKED_TARGET,
        note=requests.doubt,
    )


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    (folder / "own").mkdir()
    (folder / "asked").mkdir()
    with subjects(folder / "own", KERNELS) as pair:
        requests = Requests(pair, rounds)
        for size in SIZES:
            requests.fill(size)
            yield from lists(requests, size)
            if size == KERNELS:
                yield from single(requests, size)
                yield from printing(requests, pair, size)
    yield from asked(folder / "asked", KERNELS, rounds)
