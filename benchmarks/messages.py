"""What each message of a kernel costs a server to which no client of the kernel is connected.

The server notes the kernel's activity then. Ours must not need more processor time for that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.filling import Sessions
from benchmarks.measurement import Measurement, in_turns
from benchmarks.processor import processor_time
from benchmarks.subjects import Subject, alone, subjects

ROUNDS = 15
COUNT = 20_000
_TARGET = 1.02


class Messages:
    """Measures the messages of the only kernel of a server."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        sessions = Sessions(subject)
        sessions.fill(1)
        self._fetcher = sessions.fetcher

    def cost(self, *others: Subject) -> float:
        """Return the microseconds of the server's processor per message."""
        pid = self._subject.server.process.pid
        with alone(self._subject, *others):
            self._wait_for("idle")
            used = processor_time(pid)
            self._subject.kernels.burst(COUNT)
            self._wait_for("busy")
            return (processor_time(pid) - used) / COUNT * 1e6

    def _wait_for(self, state: str) -> None:
        """Let the kernel say that it is in this state, and wait until the server knows."""
        self._subject.kernels.say(state, 1)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # Seldom, because each request costs as much as some messages.
            time.sleep(0.1)
            (model,) = self._fetcher.model("GET", "/api/kernels")
            if model["execution_state"] == state:
                return
        raise TimeoutError(f"the kernel is not {state}")


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    with subjects(folder, 1) as pair:
        messages = {name: Messages(subject) for name, subject in pair.items()}
        ours = partial(messages["ours"].cost, pair["stock"])
        stock = partial(messages["stock"].cost, pair["ours"])
        ours()
        stock()
        values = in_turns(rounds, {"ours": ours, "stock": stock})
    yield Measurement(
        name=f"{COUNT} iopub messages, no client", unit="us", values=values, at_most=_TARGET
    )
