"""The command line beside folders that it may not read: it says so, and shows the rest."""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from nbsessions.cli import overview, running_servers
from nbsessions.cli.local_kernels import LocalKernel
from nbsessions.registry.records import KernelRecords
from support.cli import CommandLine, info_file
from support.server import AS_A_USER, Server, StartServer, forbidden

ALL = "all of them"
FOLDERS: dict[str, Callable[[Server], Path]] = {
    "records": lambda server: server.runtime_dir / "nbsessions" / "kernels",
    "servers": lambda server: server.runtime_dir / "nbsessions" / "servers",
    "runtime": lambda server: server.runtime_dir / "nbsessions",
    "store": lambda server: server.data_dir / "nbsessions",
    "data": lambda server: server.data_dir,
    # Not under a running server, because a kernel that is starting needs its files.
    ALL: lambda server: server.folder,
}


@pytest.mark.parametrize(
    ("folder", "running"),
    [
        (each, running)
        for each in FOLDERS
        for running in (True, False)
        if each != ALL or not running
    ],
)
def test_a_folder_that_may_not_be_read_is_named(
    start_server: StartServer, folder: str, running: bool
) -> None:
    server = start_server(wrapper=AS_A_USER)
    server.create("a.ipynb")
    if not running:
        server.kill()
    cli = CommandLine(server)

    with forbidden(FOLDERS[folder](server)):
        listed = cli("list")
        others = [cli("list", "--orphans"), cli("show", "b.ipynb"), cli("doctor")]
        others.append(cli("stop", "-y", "b.ipynb"))
        others.append(cli("stop", "-y", "a.ipynb"))

    assert listed.status == 0
    if folder != ALL:
        assert ("a.ipynb" in listed.out) == (running or folder == "servers")
    if folder != "servers":
        assert str(FOLDERS[folder](server)) in listed.err
    for ran in (listed, *others):
        assert "Traceback" not in ran.out + ran.err, ran.err


@pytest.mark.parametrize("unseen", ["the info file of the server", "the record"])
def test_a_kernel_is_no_orphan_if_its_server_or_record_cannot_be_seen(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, unseen: str
) -> None:
    def refuse(*arguments: object, **options: object) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    server = start_server()
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    # A server that has stalled may have no connection to its kernels.
    monkeypatch.setattr(LocalKernel, "has_clients", lambda kernel: False)
    if unseen == "the record":
        # The server is not seen either, as if its info file had been removed.
        monkeypatch.setattr(overview, "find_running_servers", lambda folder: ([], []))
        monkeypatch.setattr(KernelRecords, "read", lambda records, kernel_id: None)
    else:
        monkeypatch.setattr(running_servers, "open_file", refuse)
        monkeypatch.setattr(KernelRecords, "list_ids", lambda records: [])
        monkeypatch.setattr(KernelRecords, "exists", lambda records, kernel_id: False)

    seen = overview.Overview(server.runtime_dir, None, log=logging.getLogger("test"))

    assert seen.orphans == ()
    if unseen != "the record":
        assert "running servers cannot be found" in " ".join(seen.notices)


def test_a_dead_server_is_remembered_while_a_record_cannot_be_read(
    start_server: StartServer,
) -> None:
    server = start_server()
    models = {path: server.create(path, "python3") for path in ("a.ipynb", "b.ipynb")}
    for model in models.values():
        assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    kernel_id = models["b.ipynb"]["kernel"]["id"]
    record = server.runtime_dir / "nbsessions" / "kernels" / f"{kernel_id}.json"
    text = record.read_text()
    record.write_text("damaged")

    assert CommandLine(server)("stop", "-y", "a.ipynb").status == 0

    record.write_text(text)
    server.start()
    assert [each["path"] for each in server.list_sessions()] == ["b.ipynb"]
    assert server.execute(kernel_id, "x") == "42"


def test_doctor_names_a_store_that_servers_refuse(start_server: StartServer) -> None:
    server = start_server(start=False)
    server.allow_errors("kept in memory")
    folder = server.folder / "open"
    folder.mkdir()
    sqlite3.connect(folder / "sessions.db").execute("CREATE TABLE x (y)").connection.close()
    folder.chmod(0o1777)
    store = f"--AsyncSessionManager.database_filepath={folder / 'sessions.db'}"
    ran = CommandLine(server)("doctor", store)
    assert ran.status == 1
    assert f"everybody can create files in {folder}" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"pid": -5}', '{"port": Infinity}', '{"base_url": 5}', "{}", "nonsense"],
)
def test_strange_info_files_are_skipped(start_server: StartServer, content: str) -> None:
    server = start_server()
    server.create("a.ipynb")
    info = json.loads(info_file(server).read_text())
    strange = server.runtime_dir / "jpserver-1.json"
    try:
        strange.write_text(json.dumps({**info, **json.loads(content)}))
    except (ValueError, RecursionError):
        strange.write_text(content)
    ran = CommandLine(server)("list")
    assert "Traceback" not in ran.err
    assert "a.ipynb" in ran.out


def test_a_named_pipe_is_not_waited_for(start_server: StartServer) -> None:
    server = start_server()
    server.create("a.ipynb")
    os.mkfifo(server.runtime_dir / "jpserver-1.json")
    os.mkfifo(server.folder / "sessions.db")
    store = f"--AsyncSessionManager.database_filepath={server.folder / 'sessions.db'}"
    assert "a.ipynb" in CommandLine(server)("list", store).out
    assert "is not a regular file" in CommandLine(server)("doctor", store).out


def test_an_unreadable_store_is_reported_by_doctor(start_server: StartServer) -> None:
    server = start_server(wrapper=AS_A_USER)
    server.stop()
    with forbidden(server.data_dir):
        ran = CommandLine(server)("doctor")
    assert ran.status == 1
    assert f"{server.store} cannot be used: [Errno 13] Permission denied" in " ".join(
        ran.out.split()
    )
