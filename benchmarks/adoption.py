"""Measures what surviving kernels add to a server's startup, how fast they are adopted, and what
it costs to look for servers that have died.

Run it in an environment that has nbsessions and jupyter_server: python -m benchmarks.adoption
"""

from __future__ import annotations

import argparse
import logging
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.server import Server
from nbsessions.registry.adoption import Adoption
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.records import KernelRecords
from nbsessions.registry.servers import Servers

STOCK = "jupyter_server.services.kernels.kernelmanager.AsyncMappingKernelManager"
OURS = "nbsessions.kernels.surviving.manager.SurvivingMappingKernelManager"
STARTUP_TARGET, STATES_TARGET, LOOK_TARGET = 0.010, 0.5, 0.005
NEIGHBOURS, LOOKS = (0, 10, 100), 300
_MAKE = """
import sys, time
from jupyter_server.serverapp import ServerApp
import jupyter_server.services.kernels.kernelmanager
if sys.argv[3] == "sessions loaded":
    import nbsessions
parent = ServerApp()
start = time.perf_counter()
module, _, name = sys.argv[1].rpartition(".")
manager = getattr(__import__(module, fromlist=[name]), name)(
    parent=parent, connection_dir=sys.argv[2], root_dir=sys.argv[2]
)
print(time.perf_counter() - start)
"""


def startup(rounds: int, what: str) -> float:
    """Return the extra seconds that importing and creating our kernel manager takes.

    With ``sessions loaded``, nbsessions is already imported, as in a server that uses our session
    manager. With ``alone``, the time includes importing the whole package.
    """
    seconds: dict[str, list[float]] = {STOCK: [], OURS: []}
    for _ in range(rounds):
        for name, found in seconds.items():
            with tempfile.TemporaryDirectory() as folder:
                ran = subprocess.run(
                    [sys.executable, "-c", _MAKE, name, folder, what],
                    cwd=folder,  # so that only installed packages are imported
                    check=True,
                    capture_output=True,
                    text=True,
                )
            found.append(float(ran.stdout))
    return statistics.median(seconds[OURS]) - statistics.median(seconds[STOCK])


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


def main(rounds: int, count: int) -> int:
    extra, whole = (startup(rounds, what) for what in ("sessions loaded", "alone"))
    print(f"extra time over the server's own kernel manager, medians of {rounds} rounds:")
    print(f"start with nothing to adopt: {extra * 1000:+.1f} ms")
    print(f"the same, including the import of the whole package: {whole * 1000:+.1f} ms")
    listed, first, seconds = adoption(count)
    print(
        f"adoption of {count} kernels: {listed} on the first list, {first:.2f} s after the ",
        end="",
    )
    print(f"start of the process; all states known {seconds:.2f} s later")
    looks = {neighbours: looking(neighbours) for neighbours in NEIGHBOURS}
    for neighbours, cost in looks.items():
        print(f"a look for dead servers beside {neighbours} live ones: {cost * 1000:.2f} ms CPU")
    is_fast = extra < STARTUP_TARGET and seconds < STATES_TARGET
    reached = is_fast and listed == count and max(looks.values()) < LOOK_TARGET
    print("Targets:", "all reached" if reached else "missed")
    return not reached


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--kernels", type=int, default=20)
    arguments = parser.parse_args()
    sys.exit(main(arguments.rounds, arguments.kernels))
