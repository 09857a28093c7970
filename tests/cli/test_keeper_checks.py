"""What ``doctor`` finds out about the keeper: odd keepers, folders and kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from nbsessions.cli.checks.finding import Finding, Level
from nbsessions.cli.checks.keeper import check_keeper
from nbsessions.cli.keeper.state import KeeperState, read_state
from nbsessions.cli.keeper.stop import cost_of_stopping
from nbsessions.cli.overview import Overview
from nbsessions.keeper import folder as folders
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.protocol import VERSION, Channel, Hello, Reply, Request
from nbsessions.registry.records import NEVER
from support.cli import CommandLine
from support.server import StartServer
from support.surviving import LOG, Place, Processes, processes

TCP = {"transport": "tcp", "ip": "127.0.0.1", "key": "a-key", "iopub_port": 1}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A runtime directory whose keeper's folder is there."""
    place = Place(tmp_path / "nbsessions")
    KeeperFolder(place.folder).make()
    return place


@pytest.fixture
def started() -> Iterator[Processes]:
    with processes() as started:
        yield started


def state_of(place: Place) -> KeeperState:
    return examined(place)[0]


def examined(place: Place, **settings: Any) -> tuple[KeeperState, list[Finding]]:
    """Return the state, and what ``doctor`` says about it."""
    overview = Overview(place.folder.parent, None, log=LOG)
    state = read_state(place.folder.parent, overview.kernels)
    config = Config({"SurvivingKernels": settings})
    return state, list(check_keeper(config, state, overview))


def warnings(place: Place, **settings: Any) -> list[str]:
    _, findings = examined(place, **settings)
    assert all(each.check == "keeper" for each in findings)
    assert all(each.level is not Level.ERROR for each in findings)
    return [each.message for each in findings if each.level is Level.WARNING]


def record(place: Place, started: Processes, **fields: Any) -> str:
    """Record a kernel whose server is dead. Return the beginning of its id."""
    fields = {"connection_info": TCP, "output_limit": 1_000_000, **fields}
    return place.record(place.dead_server(), started.stranger(), **fields).kernel_id[:8]


@contextmanager
def answering(place: Place, answer: Callable[[Channel, Request], None]) -> Iterator[None]:
    """Run a keeper that answers requests as it is told to."""
    listener = KeeperFolder(place.folder).bind()
    listener.settimeout(30)

    def serve() -> None:
        connection, _ = listener.accept()
        channel = Channel(connection)
        while channel.receive():
            while (request := channel.next_request()) is not None:
                answer(channel, request)
        channel.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
        thread.join(30)
    finally:
        listener.close()
    assert not thread.is_alive()


def test_an_idle_place_is_fine(place: Place) -> None:
    state, (finding,) = examined(place)
    assert finding.level is Level.OK
    assert finding.message == "no keeper runs, because no kernel may outlive its server"
    assert state.memory is None


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
def test_a_keeper_of_another_version_that_makes_no_sense_is_named(
    place: Place, version: int
) -> None:
    def answer(channel: Channel, request: Request) -> None:
        if isinstance(request, Hello):
            channel.send(Reply(version=version, pid=os.getpid()))
        else:
            channel.send(Reply(error="this is no request"))

    with answering(place, answer):
        state, (finding,) = examined(place)
    assert finding.level is Level.WARNING
    assert f"(process {os.getpid()}) has version {version} of the protocol" in finding.message
    assert (finding.hint is not None and "replaces" in finding.hint) == (version < VERSION)
    assert state.pid == os.getpid()
    assert state.memory is not None


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
def test_the_status_of_a_keeper_of_another_version_is_read(place: Place, version: int) -> None:
    status = {"pid": os.getpid(), "version": version, "started": 0.0, "unknown": 1, "kernels": {}}

    def answer(channel: Channel, _: Request) -> None:
        channel.send(Reply(version=version, pid=os.getpid(), status=status))

    with answering(place, answer):
        state, (finding, *more) = examined(place)
    assert state.status is not None
    assert state.problem is None
    assert finding.message == f"process {os.getpid()} keeps what 0 kernels said: 0 kB"
    assert [each.level for each in more] == [Level.OK] * (version < VERSION)
    assert all("replaces" in each.message for each in more)


@pytest.mark.parametrize(
    ("status", "message"), [({"pid": "none"}, "the keeper does not answer: "), (None, "Expected")]
)
def test_a_keeper_that_makes_no_sense_is_told(place: Place, status: Any, message: str) -> None:
    def answer(channel: Channel, request: Request) -> None:
        greets = isinstance(request, Hello)
        channel.send(Reply(version=VERSION) if greets else Reply(status=status))

    with answering(place, answer):
        (found,) = warnings(place)
    assert message in found


def test_a_keeper_that_hangs_up_is_told(place: Place) -> None:
    with answering(place, lambda channel, _: channel.connection.shutdown(2)):
        (found,) = warnings(place)
    assert found == "the keeper does not answer: the keeper has ended the connection"


def test_a_keeper_that_misses_kernels_is_told(place: Place, started: Processes) -> None:
    kernel = record(place, started)
    status = {"pid": os.getpid(), "version": VERSION, "started": 0.0}

    def answer(channel: Channel, _: Request) -> None:
        channel.send(Reply(version=VERSION, pid=os.getpid(), status=status))

    with answering(place, answer):
        _, findings = examined(place)
    assert findings[0].message == f"process {os.getpid()} keeps what 0 kernels said: 0 kB"
    assert findings[1].message == f"the keeper does not listen to 1 kernel: {kernel}"


def test_output_that_is_not_to_be_kept_is_told(place: Place) -> None:
    for value in (False, "False"):
        (found,) = warnings(place, keep_output=value)
        assert found.startswith("keep_output is False")
    assert warnings(place, keep_output=True) == []


@pytest.mark.parametrize("name", ["", "spools", "marks", "clients"])
def test_a_folder_that_others_can_change_is_told(place: Place, name: str) -> None:
    folder = KeeperFolder(place.folder).path / name
    folder.chmod(0o777)
    found = warnings(place)
    assert f"others can change the files in {folder}" in found[0]
    assert found[0].startswith("nothing can be kept: ")


def test_a_path_that_is_too_long_is_told_where_it_cannot_be_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / ("x" * 100) / "nbsessions")
    assert warnings(place) == []
    monkeypatch.setattr(folders, "_OWN_DESCRIPTORS", "/nowhere")
    (found,) = warnings(place)
    assert found.startswith("the path of the keeper's socket is too long")


def test_a_transport_that_nobody_knows_is_told(place: Place, started: Processes) -> None:
    kernel = record(
        place, started, connection_info={**TCP, "transport": "pigeon"}, orphan_timeout=NEVER
    )
    (found,) = warnings(place)
    assert found.endswith(f"what 1 kernel said, because the transport is unknown: {kernel}")
    assert cost_of_stopping(state_of(place)).endswith("nothing that kernels say is lost")


def test_kernels_without_a_keeper_are_counted(place: Place, started: Processes) -> None:
    for _ in range(2):
        record(place, started)
    (found,) = warnings(place)
    assert found.startswith("no keeper runs, although 2 kernels may outlive their server")


def test_a_keeper_should_run_if_only_to_end_orphans(place: Place, started: Processes) -> None:
    record(place, started, output_limit=0)
    missing, silent = warnings(place)
    assert missing == (
        "no keeper runs, although 1 kernel may outlive its server: orphans are not ended"
    )
    assert silent.startswith("nothing is kept of what 1 kernel said, because keep_output was")


def test_a_full_file_system_is_told(place: Place, started: Processes) -> None:
    record(place, started, output_limit=10**18)
    _, full = warnings(place)
    assert full.startswith("the files of 1 kernel may take 1200000000.0 GB more, but ")


def test_all_files_together_take_no_more_than_their_limit(
    place: Place, started: Processes
) -> None:
    record(place, started, output_limit=10**18, total_output_limit=1_000_000)
    (missing,) = warnings(place)
    assert missing.startswith("no keeper runs")
    record(place, started, output_limit=10**18, total_output_limit=10**17)
    assert len(warnings(place)) == 1


def test_a_server_that_runs_restarts_the_keeper(place: Place, started: Processes) -> None:
    place.servers.register()
    place.record(
        place.servers.server_id, started.stranger(), connection_info=TCP, output_limit=1_000_000
    )
    state = state_of(place)
    place.servers.unregister(kernels_left=False)
    assert state.is_restarted
    assert "within two seconds" in state.remedy
    assert "within two seconds" in cost_of_stopping(state)


def test_the_command_line_needs_no_zmq() -> None:
    code = "import sys; sys.modules['zmq'] = None; import nbsessions.cli.application"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kernels_that_end_with_their_server_are_named(start_server: StartServer) -> None:
    server = start_server(config={"SurvivingKernels": {"keep_kernels": "never"}})
    kernel_id = server.create("a.ipynb")["kernel"]["id"]
    out = CommandLine(server)("doctor").out
    assert f"said, because there is no record: {kernel_id[:8]}" in out
