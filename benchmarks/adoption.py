"""What surviving kernels add to a server's startup, and how fast they are adopted.

The startup is that of the kernel manager alone, with nothing to adopt. A server also looks for
others that have died, once per second.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measurement import Measurement, in_turns
from benchmarks.server import PYTHONPATH, Server
from nbsessions.registry.adoption import Adoption
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.records import KernelRecords
from nbsessions.registry.servers import Servers

STOCK = "jupyter_server.services.kernels.kernelmanager.AsyncMappingKernelManager"
OURS = "nbsessions.kernels.surviving.manager.SurvivingMappingKernelManager"
ROUNDS, KERNELS = 15, 20
STARTUP_TARGET, STATES_TARGET, LOOK_TARGET = 10.0, 0.5, 5.0
NEIGHBOURS, LOOKS = (0, 10, 100), 300
_MAKE = """
import sys, time
from jupyter_server.serverapp import ServerApp
import jupyter_server.services.kernels.kernelmanager
if sys.argv[3] == "sessions loaded":
    from nbsessions import AsyncSessionManager
parent = ServerApp()
start = time.perf_counter()
module, _, name = sys.argv[1].rpartition(".")
manager = getattr(__import__(module, fromlist=[name]), name)(
    parent=parent, connection_dir=sys.argv[2], root_dir=sys.argv[2]
)
print(time.perf_counter() - start)
"""


def startup(name: str, what: str) -> float:
    """Return the milliseconds that importing and creating this kernel manager takes.

    With ``sessions loaded``, our session manager is already imported, as in a server. With
    ``alone``, the time includes importing the whole package.
    """
    with tempfile.TemporaryDirectory() as folder:
        ran = subprocess.run(
            [sys.executable, "-c", _MAKE, name, folder, what],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            check=True,
            capture_output=True,
            text=True,
        )
    return float(ran.stdout) * 1000


def adoption(count: int) -> tuple[int, float, float]:
    """Kill a server with this many kernels, start it again, and measure the adoption.

    Return the number of sessions on the first list, the seconds from the start of the process to
    that list, and the seconds from the list until all kernel states are known.
    """
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        server.first_list()
        for number in range(count):
            server.create(f"{number}.ipynb")
        server.wait_for_kernels()
        server.end(signal.SIGKILL)
        begin = time.perf_counter()
        server.start()
        models = server.first_list()
        listed, start = len(models), time.perf_counter()
        while not _all_idle(models) and time.perf_counter() - start < 60:
            time.sleep(0.005)
            models = server.first_list()
        seconds = time.perf_counter() - start
        server.end(signal.SIGTERM)
    return listed, start - begin, seconds


def looking(neighbours: int) -> float:
    """Return the CPU seconds of one look for dead servers while so many others are alive.

    A server looks once per second.
    """
    with tempfile.TemporaryDirectory() as folder:
        servers = [Servers(Path(folder, "servers")) for _ in range(neighbours + 1)]
        for server in servers:
            server.register()
        log = logging.getLogger("benchmark")
        records = KernelRecords(Path(folder, "kernels"), log=log)
        adoption = Adoption(
            records,
            servers[0],
            KernelEnder(records),
            root_dir=folder,
            orphan_timeout=0.0,
            log=log,
        )
        begin = time.process_time()
        for _ in range(LOOKS):
            adoption.find_left()
        seconds = (time.process_time() - begin) / LOOKS
        for server in servers:
            server.unregister(kernels_left=False)
    return seconds


def _all_idle(models: list[dict[str, Any]]) -> bool:
    return all(model["kernel"]["execution_state"] == "idle" for model in models)


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    for what, target in (("sessions loaded", STARTUP_TARGET), ("alone", None)):
        subjects = {
            "ours": partial(startup, OURS, what),
            "stock": partial(startup, STOCK, what),
        }
        yield Measurement(
            name=f"start, {what}",
            unit="ms",
            values=in_turns(rounds, subjects),
            difference=True,
            at_most=target,
        )
    listed, first, states = adoption(KERNELS)
    kernels = f"adoption of {KERNELS} kernels"
    yield Measurement(
        name=f"{kernels}: sessions on the first list",
        unit="",
        values={"ours": [listed]},
        at_least=KERNELS,
    )
    yield Measurement(name=f"{kernels}: first list", unit="s", values={"ours": [first]})
    yield Measurement(
        name=f"{kernels}: states known after",
        unit="s",
        values={"ours": [states]},
        at_most=STATES_TARGET,
    )
    for neighbours in NEIGHBOURS:
        yield Measurement(
            name=f"a look beside {neighbours} live servers",
            unit="ms",
            values={"ours": [looking(neighbours) * 1000]},
            at_most=LOOK_TARGET,
        )
