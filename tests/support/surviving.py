"""Processes that stand in for kernels, their records, and the servers that had them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from msgspec.structs import replace

from nbsessions.registry.adoption import Adoption
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.process import ProcessIdentity, attach, identify
from nbsessions.registry.records import KernelRecord, KernelRecords
from nbsessions.registry.servers import Servers, State
from support.waiting import wait_until

LOG = logging.getLogger("nbsessions.tests.surviving")
ROOT = "/the/root"
SLEEP = ("sleep", "600")

_LAUNCH = """
import subprocess, sys
null = subprocess.DEVNULL
options = {"stdin": null, "stdout": null, "start_new_session": True}
print(subprocess.Popen(sys.argv[1:], **options).pid)
"""
_NEVER_REAP = """
import os, signal
child = os.fork()
if child:
    print(child, flush=True)
while True:
    signal.pause()
"""


class Processes:
    """Starts processes and ends them after the test, whatever their parent is."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[str]] = []
        self._strangers: list[ProcessIdentity] = []

    def child(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start a child process, ``sleep`` by default."""
        process = subprocess.Popen(argv or SLEEP, text=True, **options)
        self._children.append(process)
        return process

    def stranger(self, *argv: str, **options: Any) -> ProcessIdentity:
        """Start a session leader whose parent has ended."""
        command = [sys.executable, "-S", "-c", _LAUNCH, *(argv or SLEEP)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options)
        return self.keep(int(done.stdout))

    def unreaped(self) -> ProcessIdentity:
        """Start a process whose parent never waits for it."""
        parent = self.child(
            sys.executable, "-S", "-c", _NEVER_REAP, stdout=subprocess.PIPE, start_new_session=True
        )
        assert parent.stdout is not None
        return self.keep(int(parent.stdout.readline()))

    def keep(self, pid: int) -> ProcessIdentity:
        """End the process after the test. Return its identity."""
        identity = identify(pid)
        self._strangers.append(identity)
        # For a moment after its start, a process has no environment.
        wait_until(psutil.Process(pid).environ, "it has its environment")
        return identity

    def close(self) -> None:
        for identity in self._strangers:
            with contextlib.suppress(ProcessLookupError):
                attach(identity).kill()
        for child in self._children:
            child.kill()
            child.communicate()


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """Yield a ``Processes``, and end all its processes afterwards."""
    started = Processes()
    try:
        yield started
    finally:
        started.close()


def runs(identity: ProcessIdentity) -> bool:
    """Return whether the process is running."""
    try:
        attach(identity)
    except ProcessLookupError:
        return False
    return True


class Place:
    """The records and servers in a runtime directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = KernelRecords(folder / "kernels", log=LOG)
        self.records.make_folder()
        self.servers = Servers(folder / "servers")
        """The server that adopts kernels."""

    def lock_file(self, server_id: str) -> Path:
        return self.folder / "servers" / f"{server_id}.lock"

    def record_file(self, kernel_id: str) -> Path:
        return self.folder / "kernels" / f"{kernel_id}.json"

    def log_file(self, kernel_id: str) -> Path:
        return self.folder / "kernels" / f"{kernel_id}.log"

    def connection_file(self, kernel_id: str) -> Path:
        """Create a kernel's connection file, and return its path."""
        file = self.folder / f"kernel-{kernel_id}.json"
        file.touch()
        return file

    def dead_server(self, *, ending: bool = False) -> str:
        """Return the id of a server that has ended and left its kernels behind."""
        server = Servers(self.folder / "servers")
        server.register()
        if ending:
            server.mark_ending()
        server.unregister(kernels_left=True)
        return server.server_id

    def record(
        self,
        server_id: str,
        process: ProcessIdentity | None,
        kernel_id: str | None = None,
        **fields: Any,
    ) -> KernelRecord:
        """Write the record of a kernel."""
        kernel_id = kernel_id or str(uuid.uuid4())
        fields.setdefault("connection_file", str(self.connection_file(kernel_id)))
        record = make_record(kernel_id, server_id=server_id, process=process, **fields)
        self.records.write(record)
        return record

    def adoption(self, *, root_dir: str = ROOT, orphan_timeout: float = 3600.0) -> Adoption:
        """Return the adoption that a server runs when it starts now."""
        return Adoption(
            self.records,
            self.servers,
            KernelEnder(self.records),
            root_dir=root_dir,
            orphan_timeout=orphan_timeout,
            log=LOG,
        )


def make_record(kernel_id: str = "a-kernel", **fields: Any) -> KernelRecord:
    """Return a record, with defaults for all fields that do not matter."""
    known: dict[str, Any] = {
        "server_id": "a-server",
        "host": socket.gethostname(),
        "root_dir": ROOT,
        "kernel_name": "python3",
        "kernel_spec": {"argv": ["python"], "display_name": "Python"},
        "connection_file": f"/nowhere/kernel-{kernel_id}.json",
        "connection_info": {"transport": "tcp", "ip": "127.0.0.1", "key": "a-key"},
    }
    return KernelRecord(kernel_id=kernel_id, **{**known, **fields})


# Functions that OtherProcess calls in other processes

_servers: list[Servers] = []


def register_server(folder: Path) -> str:
    """Register this process as a live server, and return the server's id."""
    server = Servers(folder)
    server.register()
    _servers.append(server)
    return server.server_id


def show_a_sign_of_life() -> None:
    """Let the server of this process do what each server does once per second."""
    _servers[-1].touch()


def fork_sleeper() -> int:
    """Fork a child that only sleeps, and return its process id."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, b".")
        while True:
            signal.pause()
    os.read(ready, 1)
    return child


def ask_for_state(folder: Path, server_id: str) -> State:
    """Return the state of a server, as this process sees it."""
    return Servers(folder).state(server_id)


def ask_until(folder: Path, server_id: str, begun: Path, stop: Path) -> None:
    """Create ``begun``, and ask for a server's state without a pause until ``stop`` exists."""
    servers = Servers(folder)
    begun.touch()
    while not stop.exists():
        assert servers.state(server_id) is not State.SILENT


def claim_each(folder: Path, server_ids: list[str], start: Path) -> list[str]:
    """Claim each server once the file ``start`` exists. Return the ids of those obtained."""
    _wait_for(start)
    obtained = []
    for server_id in server_ids:
        with Servers(folder).claim(server_id) as claimed:
            if claimed:
                obtained.append(server_id)
                Servers(folder).forget(server_id)
    return obtained


def claim_until(folder: Path, begun: Path, stop: Path) -> None:
    """Create ``begun``, and claim and forget any dead server until ``stop`` exists."""
    servers = Servers(folder)
    begun.touch()
    while not stop.exists():
        for server_id in servers.list_ids():
            with servers.claim(server_id) as claimed:
                if claimed:
                    servers.forget(server_id)


def adopt_all(folder: Path, start: Path) -> list[str]:
    """Adopt all kernels once the file ``start`` exists. Return the ids of the adopted ones."""
    place = Place(folder)
    _servers.append(place.servers)
    adopted: list[str] = []

    def adopt(record: KernelRecord) -> None:
        if not adopted:
            place.servers.register()
        place.records.write(replace(record, server_id=place.servers.server_id))
        adopted.append(record.kernel_id)

    _wait_for(start)
    place.adoption().run(adopt)
    return adopted


def write_again_and_again(folder: Path, kernel_id: str, times: int, stop: Path) -> int:
    """Write the record of one kernel again and again, with varying lengths.

    Do so at least ``times`` times, and until the file ``stop`` exists. Return how often.
    """
    records = KernelRecords(folder, log=LOG)
    number = 0
    while number < times or not stop.exists():
        number += 1
        records.write(make_record(kernel_id, root_dir="/" * (number % 50) * 1000, logged=number))
    return number


def _wait_for(file: Path) -> None:
    # Poll without a pause, so that all waiting processes continue at the same moment.
    while not file.exists():
        pass
