"""The command line beside folders that it may not read: it says so, and shows the rest."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nbsessions.cli import overview
from nbsessions.cli.local_kernels import LocalKernel
from nbsessions.kernels.registry.records import KernelRecords
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


def test_a_kernel_is_no_orphan_if_its_server_cannot_be_seen(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    server = start_server()
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    monkeypatch.setattr(KernelRecords, "read_all", refuse)
    # A server that has stalled may have no connection to its kernels.
    monkeypatch.setattr(LocalKernel, "has_clients", lambda kernel: False)
    monkeypatch.setattr(overview, "list_running_servers", refuse)

    seen = overview.Overview(server.runtime_dir, None, log=logging.getLogger("test"))

    assert seen.orphans == ()
    assert "running servers cannot be found" in " ".join(seen.notices)


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
