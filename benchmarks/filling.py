"""Creates many sessions over HTTP, several at a time."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.server import AUTHORIZATION
from benchmarks.subjects import Subject

AT_A_TIME = 8
KERNELS = 1000
"""How many kernels there are at most. Further sessions share them."""


class Fetcher:
    """Sends requests to a server, from several threads with a connection each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()

    def fetch(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return the status, the headers and the body of the reply."""
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, 120)
        connection = self._local.connection
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {**AUTHORIZATION, **headers})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()

    def model(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON of a reply, which must be a success."""
        status, _, content = self.fetch(method, path, body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {content[:200]!r}")
        return json.loads(content) if content else None


class Sessions:
    """The sessions of one server. The first ones have a kernel each, all others share these."""

    def __init__(self, subject: Subject) -> None:
        self.fetcher = Fetcher(subject.server.port)
        self._subject = subject
        self._kernel_ids: list[str] = []
        self._count = 0

    def fill(self, count: int) -> None:
        """Create sessions until there are so many, and wait until their kernels are idle."""
        started = min(count, KERNELS)
        self._kernel_ids += self._create(range(self._count, started), {"name": "light"})
        for first in range(max(self._count, started), count, KERNELS):
            for _ in self._create(range(first, min(first + KERNELS, count)), None):
                pass
        self._count = count
        self._wait_until_idle(started)

    def _create(self, numbers: range, kernel: dict[str, str] | None) -> Iterable[str]:
        def create(number: int) -> str:
            model = self.create(f"folder/notebook-{number}.ipynb", number, kernel)
            kernel_id: str = model["kernel"]["id"]
            return kernel_id

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            yield from pool.map(create, numbers)

    def create(self, path: str, number: int, kernel: dict[str, str] | None = None) -> Any:
        """Create a session with this kernel, or that of one of the first sessions."""
        kernel = kernel or {"id": self._kernel_ids[number % len(self._kernel_ids)]}
        body = {"path": path, "name": path.rpartition("/")[2], "type": "notebook"}
        return self.fetcher.model("POST", "/api/sessions", {**body, "kernel": kernel})

    @property
    def list_length(self) -> int:
        """The number of bytes of the list."""
        return len(self.fetcher.fetch("GET", "/api/sessions")[2])

    def _wait_until_idle(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            # Again, because a server may not have been connected to all kernels.
            self._subject.kernels.say("idle", count)
            time.sleep(0.1)
            models = self.fetcher.model("GET", "/api/kernels")
            if all(model["execution_state"] == "idle" for model in models):
                return
        raise TimeoutError("some kernels are not idle")

    def compared(self) -> set[str]:
        """Return the sessions without ids and times, for a comparison with those of stock."""
        models = self.fetcher.model("GET", "/api/sessions")
        for model in models:
            kernel = model["kernel"]
            del model["id"], kernel["id"], kernel["last_activity"]
        found = {json.dumps(model, sort_keys=True) for model in models}
        if len(found) != self._count:
            raise RuntimeError(f"{len(found)} of {self._count} sessions are listed")
        return found
