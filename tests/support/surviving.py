"""Processes that stand for kernels, their records, and the servers that had them."""

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

from nbsessions.kernels.registry.ending import KernelEnder
from nbsessions.kernels.registry.process import ProcessIdentity, attach, identify
from nbsessions.kernels.registry.records import KernelRecord, KernelRecords
from nbsessions.kernels.registry.servers import Servers, State
from nbsessions.kernels.surviving.adoption import Adoption
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
    """Starts processes, and ends them after the test, whoever their parent is."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[str]] = []
        self._strangers: list[ProcessIdentity] = []

    def child(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start a process of our own: ``sleep``, unless the test says otherwise."""
        process = subprocess.Popen(argv or SLEEP, text=True, **options)
        self._children.append(process)
        return process

    def stranger(self, *argv: str, **options: Any) -> ProcessIdentity:
        """Start a process that leads a session, and whose parent has ended."""
        command = [sys.executable, "-S", "-c", _LAUNCH, *(argv or SLEEP)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options)
        return self.keep(int(done.stdout))

    def unreaped(self) -> ProcessIdentity:
        """Start a process whose parent does not wait for it."""
        parent = self.child(
            sys.executable, "-S", "-c", _NEVER_REAP, stdout=subprocess.PIPE, start_new_session=True
        )
        assert parent.stdout is not None
        return self.keep(int(parent.stdout.readline()))

    def keep(self, pid: int) -> ProcessIdentity:
        """Have a process end with the test; return its identity."""
        identity = identify(pid)
        self._strangers.append(identity)
        # For a moment after its start, a program has none.
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
    """Yield a starter of processes, which ends them all afterwards."""
    started = Processes()
    try:
        yield started
    finally:
        started.close()


def runs(identity: ProcessIdentity) -> bool:
    """Return whether the process runs."""
    try:
        attach(identity)
    except ProcessLookupError:
        return False
    return True


class Place:
    """A runtime directory, with the records and the servers in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records = KernelRecords(folder / "kernels", log=LOG)
        self.records.make_folder()
        self.servers = Servers(folder / "servers")
        """A server that may adopt."""

    def lock_file(self, server_id: str) -> Path:
        return self.folder / "servers" / f"{server_id}.lock"

    def record_file(self, kernel_id: str) -> Path:
        return self.folder / "kernels" / f"{kernel_id}.json"

    def connection_file(self, kernel_id: str) -> Path:
        """Return a kernel's connection file, which is there."""
        file = self.folder / f"kernel-{kernel_id}.json"
        file.touch()
        return file

    def dead_server(self, *, ending: bool = False) -> str:
        """Return a server that has ended and left everything as it was."""
        server = Servers(self.folder / "servers")
        server.register()
        if ending:
            server.note_ending()
        server.sign_off(kernels_left=True)
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
        """Return what a server does that starts now."""
        return Adoption(
            self.records,
            self.servers,
            KernelEnder(self.records),
            root_dir=root_dir,
            orphan_timeout=orphan_timeout,
            log=LOG,
        )


def make_record(kernel_id: str = "a-kernel", **fields: Any) -> KernelRecord:
    """Return a record, with every field that does not matter filled in."""
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


# For other processes, which are told what to do by OtherProcess

_servers: list[Servers] = []


def register_server(folder: Path) -> str:
    """Be a server that lives."""
    server = Servers(folder)
    server.register()
    _servers.append(server)
    return server.server_id


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
    """Return what is known of a server."""
    return Servers(folder).state(server_id)


def ask_until(folder: Path, server_id: str, begun: Path, stop: Path) -> None:
    """Make one file, and ask for a server's state without a pause until the other is there."""
    servers = Servers(folder)
    begun.touch()
    while not stop.exists():
        assert servers.state(server_id) is not State.SILENT


def claim_each(folder: Path, server_ids: list[str], start: Path) -> list[str]:
    """Claim each server, as soon as the file is there; return those that were obtained."""
    _wait_for(start)
    obtained = []
    for server_id in server_ids:
        with Servers(folder).claim(server_id) as claimed:
            if claimed:
                obtained.append(server_id)
                Servers(folder).forget(server_id)
    return obtained


def claim_until(folder: Path, begun: Path, stop: Path) -> None:
    """Make one file, and claim and forget whatever server comes until the other is there."""
    servers = Servers(folder)
    begun.touch()
    while not stop.exists():
        for server_id in servers.list_ids():
            with servers.claim(server_id) as claimed:
                if claimed:
                    servers.forget(server_id)


def adopt_all(folder: Path, start: Path) -> list[str]:
    """Adopt what there is, as soon as the file is there; return the ids of the kernels."""
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
    """Write the record of one kernel, each time of another length; so often, and until the
    file is there. Return how often.
    """
    records = KernelRecords(folder, log=LOG)
    number = 0
    while number < times or not stop.exists():
        number += 1
        records.write(make_record(kernel_id, root_dir="/" * (number % 50) * 1000, logged=number))
    return number


def _wait_for(file: Path) -> None:
    # Without a pause, so that those who wait go on at the same moment.
    while not file.exists():
        pass
