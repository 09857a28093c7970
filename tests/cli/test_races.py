"""What happens between a look and an act, made to happen in this process."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from nbsessions.cli import stopping
from nbsessions.cli.checks.permissions import exposed
from nbsessions.cli.local_kernels import LocalKernel, LocalKernels
from nbsessions.cli.memory import ProcessTree
from nbsessions.cli.overview import Overview
from nbsessions.cli.running_servers import find_running_servers
from nbsessions.cli.stopping import Outcome, Stopper
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.servers import State
from nbsessions.stores.sqlite.inspection import SQLiteInspection
from support.server import Server
from support.storefile import read_store
from support.surviving import Processes, processes, runs
from support.waiting import wait_until

LOG = logging.getLogger("nbsessions.tests.cli")


def look_at(server: Server) -> Overview:
    return Overview(server.runtime_dir, SQLiteInspection(server.store), log=LOG)


@pytest.fixture
def killed(server: Server) -> Server:
    """A server that was killed, with a session whose kernel lives."""
    server.create("a.ipynb")
    server.wait_for_kernels(1)
    server.kill()
    return server


@pytest.fixture
def overview(killed: Server) -> Overview:
    """What is seen before somebody else acts."""
    return look_at(killed)


def stop_all(overview: Overview) -> Outcome:
    (outcome,) = Stopper(overview).stop(overview.orphans)
    return outcome


def test_a_kernel_that_a_server_is_taking_over_goes_on(killed: Server, overview: Overview) -> None:
    server_id = next(overview.kernels.records.read_all()).server_id
    with overview.kernels.servers.claim(server_id) as claimed:
        assert claimed
        assert "taken over its kernel" in str(stop_all(overview).problem)
    assert len(killed.kernel_processes()) == 1


def test_a_kernel_that_a_server_has_taken_over_goes_on(killed: Server, overview: Overview) -> None:
    record = next(overview.kernels.records.read_all())
    overview.kernels.records.write(replace(record, server_id="another"))
    assert "taken over its kernel" in str(stop_all(overview).problem)
    assert len(killed.kernel_processes()) == 1


def test_a_kernel_that_somebody_else_has_ended_is_fine(killed: Server, overview: Overview) -> None:
    killed.kill_kernels()
    next(iter((killed.runtime_dir / "nbsessions" / "kernels").glob("*.json"))).unlink()
    assert stop_all(overview).problem is None


def test_a_kernel_that_does_not_end_is_said(
    overview: Overview, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelEnder, "end_now", lambda *arguments: False)
    assert "did not end" in str(stop_all(overview).problem)


def test_a_kernel_without_a_record_that_does_not_end_is_said(
    killed: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (killed.runtime_dir / "nbsessions" / "kernels").rename(killed.folder / "lost")
    wait_until(lambda: look_at(killed).orphans, "the kernel listens")
    overview = look_at(killed)
    monkeypatch.setattr(stopping, "end_process", lambda process: False)
    assert "did not end" in str(stop_all(overview).problem)


def test_a_kernel_that_was_being_launched_is_found_by_its_environment(
    killed: Server, overview: Overview
) -> None:
    record = next(overview.kernels.records.read_all())
    overview.kernels.records.write(replace(record, process=None))

    again = look_at(killed)

    assert [each.path for each in again.orphans] == ["a.ipynb"]
    assert stop_all(again).problem is None
    killed.wait_for_kernels(0)


def test_a_session_whose_kernel_was_adopted_is_about_to_be_taken_over(
    killed: Server, overview: Overview
) -> None:
    record = next(overview.kernels.records.read_all())
    overview.kernels.records.write(replace(record, server_id="of-another-host"))

    again = look_at(killed)

    assert [each.server.value for each in again.sessions] == ["unreachable"]
    assert again.orphans == ()


def test_a_session_of_another_host_is_out_of_reach(killed: Server) -> None:
    killed.kill_kernels()
    with closing(sqlite3.connect(killed.store)) as connection, connection:
        connection.execute("UPDATE nbsessions_owner SET host = 'elsewhere', boot = 'another'")

    seen = look_at(killed)

    (entry,) = seen.sessions
    assert (entry.server.value, entry.pid, entry.state) == ("unreachable", None, "unknown")
    assert entry.root_dir == str(killed.root_dir)


def test_a_session_that_its_server_lists_no_more_has_ended(killed: Server) -> None:
    owned = read_store(killed.store)
    killed.start()
    killed.list_sessions()  # not before it is open is the server among the owners
    (owner,) = (row for row in read_store(killed.store).owners if row not in owned.owners)
    with closing(sqlite3.connect(killed.store)) as connection, connection:
        connection.execute("DELETE FROM nbsessions_session")
        connection.execute(
            "INSERT INTO nbsessions_session (namespace, session_id, scope, provider, kernel_id, "
            "created, last_activity) VALUES ('other', 'gone', ?, 'local:', 'gone', ?, ?)",
            (owner["owner"], owner["heartbeat"], owner["heartbeat"]),
        )

    seen = look_at(killed)

    assert "gone" not in [entry.session_id for entry in seen.sessions]


def test_the_memory_of_a_process_that_is_gone_is_not_known() -> None:
    with processes() as started:
        child = started.child()
        tree = ProcessTree()
        child.kill()
        child.wait()
        assert tree.memory_of(child.pid) is None
        assert ProcessTree().memory_of(os.getpid()) is not None


def test_a_server_whose_process_is_a_zombie_does_not_run(tmp_path: Path) -> None:
    with processes() as started:
        zombie = started.unreaped()
        info = {"url": "http://localhost:1/", "pid": zombie.pid, "port": 1, "base_url": "/"}
        (tmp_path / "jpserver-1.json").write_text(json.dumps(info))
        assert [each.pid for each in find_running_servers(tmp_path)[0]] == [zombie.pid]
        os.kill(zombie.pid, 9)
        wait_until(lambda: not runs(zombie), "it is a zombie")
        assert find_running_servers(tmp_path) == ([], [])


def test_a_kernel_that_listens_on_no_port_may_have_clients() -> None:
    with processes() as started:
        kernel = LocalKernel(
            kernel_id="a-kernel",
            identity=started.stranger(),
            record=None,
            server=State.SILENT,
            connection_file="",
            survives=True,
        )
        assert kernel.has_clients()


def test_what_belongs_to_another_user_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (finding,) = exposed("store-permissions", file)
    assert finding.message == f"{file} belongs to another user"


def test_a_process_that_only_names_a_connection_file_is_no_kernel(tmp_path: Path) -> None:
    file = tmp_path / "kernel-1.json"
    with processes() as started:
        find_nothing_else(started, str(file))
        assert LocalKernels(tmp_path, log=LOG).find("1") is None


def find_nothing_else(started: Processes, file: str) -> None:
    """Start a process that names the file and does not lead a session."""
    started.child("sh", "-c", "sleep 600; true", file)
