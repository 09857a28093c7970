"""What the keeper costs, and what noting each message costs a server. Needs websocket-client.

- memory: of the keeper, with so many kernels and a connected client for each of them.
- processor: of the keeper, while ten kernels print a number of lines per second each and a client
  reads them: as ``print`` does it by itself, and with every line flushed in a message of its own.
  The target is for ten kernels whose lines are not flushed.
- message: the processor time of a server per message that it passes on to one client, with our
  connections and with those of jupyter_server, in turns. The server has a core for itself.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import websocket
from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1

from benchmarks.measurement import Measurement, in_turns
from benchmarks.server import Server

ROUNDS = 15
KERNELS = (1, 10, 50)
MESSAGES = 5_000
PRINTING, RATE = 10, 100
PROCESSOR_TARGET, MESSAGE_TARGET = 5.0, 1.02
_UNLIMITED = "--ZMQChannelsWebsocketConnection.limit_rate=False"
_STOCK = (
    "--ServerApp.kernel_websocket_connection_class="
    "jupyter_server.services.kernels.connection.channels.ZMQChannelsWebsocketConnection"
)
_CORES = os.sched_getaffinity(0)
_CODE = """
import time
begun = time.perf_counter()
for number in range({count}):
    print(number, flush={flush})
    ahead = begun + number / {rate} - time.perf_counter()
    if ahead > 0:
        time.sleep(ahead)
"""


@contextmanager
def running(*options: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), _UNLIMITED, *options)
        server.start()
        server.first_list()
        try:
            yield server
        finally:
            server.end(signal.SIGTERM)


class Client:
    """Reads all that a kernel says."""

    def __init__(self, server: Server, kernel_id: str) -> None:
        self._socket = server.connect(kernel_id)
        self.messages = 0
        # Until a reply is there, the kernel may not be ready.
        self._send("kernel_info_request", {})
        self.read_until(b"kernel_info_reply")

    def _send(self, kind: str, content: dict[str, object]) -> None:
        header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "version": "5.3", "session": "b"}
        header.update(username="", date="2024-01-01T00:00:00Z")
        parts = [json.dumps(each).encode() for each in (header, {}, {}, content)]
        self._socket.send_binary(serialize_msg_to_ws_v1(parts, "shell"))

    def execute(self, code: str) -> None:
        self._send("execute_request", {"code": code, "silent": False})

    def read_until(self, what: bytes) -> None:
        while True:
            data = self._socket.recv()
            self.messages += 1
            if what in (data if isinstance(data, bytes) else data.encode()):
                return

    def read_cell(self) -> None:
        """Read until the cell that runs has ended."""
        self.read_until(b"execute_reply")

    def close(self) -> None:
        self._socket.close(status=websocket.STATUS_NORMAL)


def keeper_of(server: Server) -> psutil.Process:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if "nbsessions.keeper" in line and str(server.registry) in line:
                return process
        time.sleep(0.1)
    raise TimeoutError("there is no keeper")


def measure_keeper(kernels: int, *, flush: bool) -> tuple[int, float]:
    """Return the bytes that the keeper needs, and its share of a core while kernels print."""
    with running() as server:
        clients = [Client(server, server.create(f"{number}.ipynb")) for number in range(kernels)]
        keeper = keeper_of(server)
        seconds = 20
        threads = []
        for client in clients[:PRINTING]:
            client.execute(_CODE.format(count=RATE * seconds, rate=RATE, flush=flush))
            threads.append(threading.Thread(target=client.read_cell))
            threads[-1].start()
        begin, used = time.perf_counter(), sum(keeper.cpu_times()[:2])
        for thread in threads:
            thread.join()
        share = (sum(keeper.cpu_times()[:2]) - used) / (time.perf_counter() - begin)
        memory = keeper.memory_info().rss
        for client in clients:
            client.close()
    return memory, share


def pin(process: psutil.Process, core: int) -> None:
    """Let all threads of a process run on one core only."""
    for thread in process.threads():
        os.sched_setaffinity(thread.id, {core})


def measure_messages(count: int, *options: str) -> float:
    """Return the processor time of a server per message, in microseconds."""
    with running(*options) as server:
        client = Client(server, server.create("a.ipynb"))
        for process in (psutil.Process(), keeper_of(server), *server.process.children()):
            pin(process, min(_CORES))
        pin(server.process, max(_CORES))
        used, before = sum(server.process.cpu_times()[:2]), client.messages
        client.execute(_CODE.format(count=count, rate=1000, flush=True))
        client.read_cell()
        seconds = sum(server.process.cpu_times()[:2]) - used
        messages = client.messages - before
        client.close()
    return seconds / messages * 1e6


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    for kernels in KERNELS:
        memory, share = measure_keeper(kernels, flush=False)
        _, flushed = measure_keeper(kernels, flush=True)
        yield Measurement(
            name=f"{kernels} kernels, memory", unit="MB", values={"keeper": [memory / 1e6]}
        )
        printing = f"{kernels} kernels, {min(kernels, PRINTING)} print {RATE} lines/s"
        yield Measurement(
            name=printing,
            unit="%",
            values={"keeper": [share * 100]},
            at_most=PROCESSOR_TARGET if kernels == PRINTING else None,
        )
        yield Measurement(
            name=f"{printing}, flushed", unit="%", values={"keeper": [flushed * 100]}
        )
    subjects = {
        "ours": partial(measure_messages, MESSAGES),
        "stock": partial(measure_messages, MESSAGES, _STOCK),
    }
    yield Measurement(
        name="a message to one client",
        unit="us",
        values=in_turns(rounds, subjects),
        at_most=MESSAGE_TARGET,
    )
