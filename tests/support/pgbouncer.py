"""A real PgBouncer in front of a PostgreSQL server, in transaction mode."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.postgres import USER, Cluster, private_folder
from support.waiting import wait_until

SETTINGS = """
[databases]
* = host={cluster.folder} port={cluster.port}

[pgbouncer]
pool_mode = transaction
default_pool_size = {pool_size}
auth_type = trust
auth_file = {folder}/{users}
listen_addr =
unix_socket_dir = {folder}
listen_port = {port}
"""
_PORT = 6432
USERS_FILE = "users.txt"
"""Beside the ini file: the roles and their passwords."""


class Pooler:
    """One PgBouncer, which can be started again."""

    def __init__(self, folder: Path, settings: str, *, users: str, host: str, port: int) -> None:
        """``settings`` and ``users`` are the texts of its files.

        ``host`` is its address on the loopback interface, or the folder of its socket.
        """
        self._folder = folder
        self._host, self._port = host, port
        self._log = folder / "log"
        self._file = folder / "pgbouncer.ini"
        self._file.write_text(settings)
        (folder / USERS_FILE).write_text(users)
        self._process: subprocess.Popen[bytes] | None = None

    def url_of(self, database: str) -> str:
        """Return the URL of a database, through this pooler."""
        return f"postgresql://postgres@/{database}?host={self._host}&port={self._port}"

    def start(self) -> Pooler:
        """Start it and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [pgbouncer_or_fail(), self._file],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=USER,
                extra_groups=[] if USER else None,
            )
        wait_until(self._accepts, "PgBouncer accepts connections")
        return self

    def kill(self) -> None:
        """End it at once, with all connections through it."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=60)

    def _accepts(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"PgBouncer ended:\n{self._log.read_text()}")
        if not self._host.startswith("/"):
            with socket.socket() as client:
                return client.connect_ex((self._host, self._port)) == 0
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(f"{self._host}/.s.PGSQL.{self._port}") == 0


def pgbouncer_or_fail() -> str:
    """Return the path of PgBouncer. Fails the test with a hint if it is missing."""
    # Not everybody's PATH has the folder that Debian puts it into.
    path = shutil.which("pgbouncer", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if path is None:
        pytest.fail("This test needs PgBouncer: apt-get install pgbouncer", pytrace=False)
    return path


@contextmanager
def running_pooler(cluster: Cluster, *, pool_size: int) -> Iterator[Pooler]:
    """Yield a pooler that has ``pool_size`` connections to each database of the cluster."""
    with private_folder() as folder:
        settings = SETTINGS.format(
            cluster=cluster, folder=folder, pool_size=pool_size, port=_PORT, users=USERS_FILE
        )
        users = '"postgres" ""\n'
        with running(Pooler(folder, settings, users=users, host=str(folder), port=_PORT)) as each:
            yield each


@contextmanager
def running(pooler: Pooler) -> Iterator[Pooler]:
    """Start the pooler, and end it afterwards."""
    try:
        yield pooler.start()
    finally:
        pooler.kill()
