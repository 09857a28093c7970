"""Two users share a runtime directory in which both may create files.

One of them, the victim, runs a server. The other one, the stranger, tries to have commands run as
the victim, or to read or change the victim's files.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from support.server import AS_A_USER, Server, StartServer
from support.store_processes import OtherProcess, become_nobody
from support.strangers import (
    LINK,
    PLAIN,
    WIDE,
    open_each,
    plant,
    plant_again_and_again,
    plant_inside,
)
from support.surviving import make_record
from support.waiting import wait_until

# These tests need a second user. Only root can become one, and nothing can be installed to change
# that, so other users leave them out. The command that runs all tests as root, as in CI, has them.
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="Only root can run processes of two users: run the tests as root."
)

KERNEL_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
PRECIOUS = "years of work\n"


class Victim:
    """A server in a runtime directory that everybody may create files in."""

    def __init__(self, server: Server, shared: Path) -> None:
        self.server = server
        server.runtime_dir = shared / "runtime"
        server.runtime_dir.mkdir()
        server.runtime_dir.chmod(0o1777)
        self.folder = server.runtime_dir / "nbsessions"
        self.precious = shared / "precious.txt"
        self.precious.write_text(PRECIOUS)
        self._marker = shared / "code of a stranger ran"
        # The victim owns this file and does not know what it is, as in a downloaded archive.
        self.record = shared / "record.json"
        self.files = shared / "planted"
        self._write_files()

    def _write_files(self) -> None:
        for name in ("kernels", "servers"):
            (self.files / name).mkdir(parents=True)
        server_id, kernel_id = str(uuid.uuid4()), str(uuid.uuid4())
        code = f"open({str(self._marker)!r}, 'w')"
        record = make_record(
            kernel_id,
            server_id=server_id,
            host=socket.gethostname(),
            root_dir=str(self.server.root_dir.resolve()),
            kernel_name="unknown-here",
            kernel_spec={
                "argv": [sys.executable, "-c", code, "{connection_file}"],
                "display_name": "Python",
                "language": "python",
            },
            connection_file=str(self.server.runtime_dir / f"kernel-{kernel_id}.json"),
            restarting=True,
        )
        self.record.write_text(json.dumps(msgspec.to_builtins(record, enc_hook=str)))
        (self.files / "kernels" / f"{kernel_id}.json").symlink_to(self.record)
        (self.files / "servers" / f"{server_id}.lock").symlink_to(self.record)
        (self.files / "kernels" / f"{KERNEL_ID}.log").symlink_to(self.precious)

    def check(self) -> None:
        """The server works, and nothing of the victim was run, read or changed."""
        body = {"name": "python3", "id": KERNEL_ID}
        model = self.server.create("a.ipynb", body)
        assert model["kernel"]["id"] == KERNEL_ID
        assert self.server.execute(KERNEL_ID, "__import__('os').system('echo said'); 6*7") == "42"
        wait_until(lambda: "said" in self.server.log, "what the kernel prints is in the log")
        assert self.server.delete(model["id"]).status == 204
        assert not self._marker.exists()
        assert self.precious.read_text() == PRECIOUS


@pytest.fixture
def victim(start_server: StartServer) -> Iterator[Victim]:
    with tempfile.TemporaryDirectory(prefix="nbsessions-", dir="/tmp") as name:
        shared = Path(name)
        shared.chmod(0o755)
        yield Victim(start_server(start=False, wrapper=AS_A_USER), shared)


@pytest.fixture
def stranger(other: OtherProcess) -> OtherProcess:
    other.ask(become_nobody)
    return other


@pytest.mark.parametrize("kind", [PLAIN, WIDE, LINK])
def test_what_a_stranger_has_put_there_first_is_not_used(
    victim: Victim, stranger: OtherProcess, kind: str
) -> None:
    stranger.ask(plant, victim.folder, kind, victim.files)

    server = victim.server.start()
    victim.check()

    for what in ("Kernels of earlier servers are not taken over", "will end with this server"):
        (line,) = server.log_lines("W", what)
        assert str(victim.folder) in line
        assert "JUPYTER_RUNTIME_DIR" in line
    assert server.stop() == 0
    assert not server.kernel_processes()


def test_a_link_to_a_folder_of_the_victims_own_is_not_followed(
    victim: Victim, stranger: OtherProcess
) -> None:
    for record in victim.files.glob("kernels/*.json"):
        record.unlink()
        shutil.copy(victim.record, record)
    for lock in victim.files.glob("servers/*"):
        lock.unlink()
        lock.touch()
    stranger.ask(plant, victim.folder, LINK, victim.files)

    victim.server.start()
    victim.check()
    assert victim.server.stop() == 0


def test_a_folder_that_others_can_write_to_is_not_used(
    victim: Victim, stranger: OtherProcess
) -> None:
    for folder in (victim.folder, victim.folder / "kernels", victim.folder / "servers"):
        folder.mkdir()
        folder.chmod(0o777)
    assert len(stranger.ask(plant_inside, victim.folder, victim.files)) == 3

    victim.server.start()
    victim.check()
    (line,) = victim.server.log_lines("W", "are not taken over")
    assert "mode 777" in line
    assert victim.server.stop() == 0


def test_a_log_that_a_stranger_has_made_receives_nothing(
    victim: Victim, stranger: OtherProcess
) -> None:
    # The folder was open to all for a while, and is private now.
    victim.folder.mkdir()
    kernels = victim.folder / "kernels"
    kernels.mkdir()
    kernels.chmod(0o777)
    for log in victim.files.glob("kernels/*"):
        log.unlink()
    log = victim.files / "kernels" / f"{KERNEL_ID}.log"
    log.touch()
    assert stranger.ask(plant_inside, victim.folder, victim.files) == [f"kernels/{log.name}"]
    kernels.chmod(0o700)

    with (kernels / log.name).open() as still_open:
        victim.server.start()
        victim.check()
        assert still_open.read() == ""
    assert victim.server.stop() == 0


def test_a_stranger_who_interferes_while_servers_start_gains_nothing(
    victim: Victim, stranger: OtherProcess, tmp_path: Path
) -> None:
    notes = Path(tempfile.mkdtemp(dir=victim.files.parent))
    notes.chmod(0o777)
    begun, stop = notes / "begun", notes / "stop"
    stranger.tell(plant_again_and_again, victim.folder, victim.files, begun, stop)
    wait_until(begun.exists, "the stranger has begun")
    for _ in range(3):
        victim.server.start()
        victim.check()
        assert victim.server.stop() == 0
        shutil.rmtree(victim.folder, ignore_errors=True)
    stop.touch()
    assert stranger.answer() > 0


# What kernels say


def test_a_stranger_cannot_read_what_is_kept_nor_talk_to_the_keeper(
    victim: Victim, stranger: OtherProcess
) -> None:
    server = victim.server.start()
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    assert server.execute(kernel_id, "'what nobody else may read'")
    wait_until(
        lambda: {each.parent.name for each in server.kept_files()} >= {"spools", "clients"},
        "the files are there",
    )
    wait_until(
        lambda: any(b"nobody else may read" in each.read_bytes() for each in server.kept_files()),
        "it is kept",
    )
    (keeper,) = victim.folder.glob("keeper-*")
    assert (keeper / "socket").is_socket()
    secret = [*server.kept_files(), keeper / "socket", keeper / "lock", keeper / "log"]
    assert stranger.ask(open_each, [victim.record, *secret]) == [victim.record.name]
    assert server.stop() == 0


# The store


def configure_store(server: Server, folder: Path) -> None:
    config = {"AsyncSessionManager": {"database_filepath": str(folder / "sessions.db")}}
    server.configure(config, {})
    server.allow_errors("kept in memory")


@pytest.mark.parametrize("suffix", ["", "-journal", ".lock", None])
def test_a_store_where_everybody_can_create_files_is_not_used(
    victim: Victim, stranger: OtherProcess, suffix: str | None
) -> None:
    server = victim.server
    configure_store(server, server.runtime_dir)
    if suffix is not None:
        planted = victim.files / "store" / f"sessions.db{suffix}"
        planted.parent.mkdir()
        planted.touch()
        assert stranger.ask(plant_inside, server.runtime_dir, planted.parent) == [planted.name]

    server.start()
    victim.check()

    (line,) = server.log_lines("E", "kept in memory")
    assert f"everybody can create files in {server.runtime_dir}" in line
    assert "database_filepath" in line
    assert server.stop() == 0


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal", ".mended", ".lock"])
def test_files_that_a_stranger_has_put_beside_a_store_are_not_used(
    victim: Victim, stranger: OtherProcess, suffix: str
) -> None:
    # The folder was open to all for a while, and is private now.
    folder = victim.files.parent / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    planted = victim.files / "store" / f"sessions.db{suffix}"
    planted.parent.mkdir()
    planted.touch()
    assert stranger.ask(plant_inside, folder, planted.parent) == [planted.name]
    folder.chmod(0o755)
    server = victim.server
    configure_store(server, folder)

    server.start()
    victim.check()

    (line,) = server.log_lines("E", "kept in memory")
    assert str(folder / planted.name) in line
    assert server.stop() == 0


def test_a_link_of_a_stranger_in_place_of_the_folder_is_not_followed(
    victim: Victim, stranger: OtherProcess
) -> None:
    server = victim.server
    server.allow_errors("kept in memory")
    server.data_dir = victim.files.parent / "data"
    server.data_dir.mkdir()
    server.data_dir.chmod(0o1777)
    server._write_kernelspecs()
    mine = victim.files.parent / "mine"
    mine.mkdir(mode=0o755)
    stranger.ask(plant, server.data_dir / "nbsessions", LINK, mine)

    server.start()
    victim.check()

    (line,) = server.log_lines("E", "kept in memory")
    assert "is a symbolic link of another user" in line
    assert mine.stat().st_mode & 0o777 == 0o755
    assert list(mine.iterdir()) == []
    assert server.stop() == 0


def test_a_link_of_a_stranger_to_a_store_is_not_followed(
    victim: Victim, stranger: OtherProcess
) -> None:
    server = victim.server
    links = victim.files / "store"
    links.mkdir()
    (links / "sessions.db").symlink_to(victim.precious)
    folder = victim.files.parent / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    stranger.ask(plant_inside, folder, links)
    folder.chmod(0o755)
    configure_store(server, folder)

    server.start()
    victim.check()

    (line,) = server.log_lines("E", "kept in memory")
    assert f"{folder / 'sessions.db'} is a symbolic link" in line
    assert server.stop() == 0
