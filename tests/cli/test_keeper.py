"""``keeper``: what it shows of a real keeper, and how it stops it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from nbsessions.keeper.asking import ask_keeper
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.status import KeeperStatus, KernelStatus
from support.channel import Channel
from support.cli import CommandLine
from support.server import Server, StartServer
from support.waiting import wait_until

KEYS = [
    "running",
    "needed",
    "problem",
    "pid",
    "started",
    "protocol",
    "memory_bytes",
    "kept_bytes",
    "limit_bytes",
    "kernels",
]
KERNEL_KEYS = [
    "kernel_id",
    "paths",
    "kept_bytes",
    "connected",
    "away",
    "away_seconds",
    "waiting_bytes",
    "keeps_replies",
]


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    limits = {"output_limit": 1_000_000, "total_output_limit": 50_000_000}
    return start_shared_server(config={"SurvivingKernels": limits})


@pytest.fixture(scope="module")
def cli(server: Server) -> CommandLine:
    return CommandLine(server)


@pytest.fixture(scope="module")
def kernel_id(server: Server) -> str:
    """A kernel that has been used."""
    kernel_id: str = server.create("folder/a.ipynb", "python3")["kernel"]["id"]
    server.execute(kernel_id, "1")
    return kernel_id


@pytest.fixture
def unused_kernel_id(server: Server) -> Iterator[str]:
    """A kernel that has had no clients."""
    session = server.create("b.ipynb", "python3")
    yield session["kernel"]["id"]
    server.delete(session["id"])


def folder_of(server: Server) -> KeeperFolder:
    return KeeperFolder(server.runtime_dir / "nbsessions")


def find_keeper(server: Server) -> KeeperStatus | None:
    """Return what the keeper says, or None if there is none."""
    try:
        return ask_keeper(folder_of(server))
    except (FileNotFoundError, ConnectionError):
        return None


def status_of(server: Server, kernel_id: str) -> KernelStatus:
    status = wait_until(lambda: find_keeper(server), "there is a keeper")
    return status.kernels.get(kernel_id, KernelStatus())


def go_away(server: Server, kernel_id: str) -> str:
    """Connect a client and let it go away. Return its session id."""
    with Channel(server, kernel_id) as channel:
        pass
    wait_until(lambda: _all_are_away(status_of(server, kernel_id)), "the client is away")
    return channel.session_id


def _all_are_away(status: KernelStatus) -> bool:
    return status.needed_after is not None and status.away == status.clients


def shown(cli: CommandLine, kernel_id: str) -> dict[str, Any]:
    """Return what ``keeper --json`` prints of one kernel."""
    kernels = cli("keeper", "--json").json()["kernels"]
    (found,) = (each for each in kernels if each["kernel_id"] == kernel_id)
    return dict(found)


def test_the_keeper_is_shown_with_its_kernels(
    server: Server, cli: CommandLine, kernel_id: str
) -> None:
    with Channel(server, kernel_id) as channel:
        assert channel.execute("6 * 7") == "42"
        report = cli("keeper", "--json").json()
        ran = cli("keeper")

    process = server.keeper_process()
    assert process is not None
    assert list(report) == KEYS
    assert (report["running"], report["needed"], report["problem"]) == (True, True, None)
    assert (report["pid"], report["protocol"]) == (process.pid, 1)
    assert abs(datetime.fromisoformat(report["started"]).timestamp() - process.create_time()) < 60
    assert report["memory_bytes"] > 1_000_000
    (kernel,) = report["kernels"]
    assert list(kernel) == KERNEL_KEYS
    assert (kernel["kernel_id"], kernel["paths"]) == (kernel_id, ["folder/a.ipynb"])
    assert kernel["connected"] == 1
    assert report["kept_bytes"] == kernel["kept_bytes"] > 0
    assert report["limit_bytes"] == 50_000_000
    assert not kernel["keeps_replies"]
    assert (ran.status, ran.err) == (0, "")
    assert f"Process {process.pid} runs since " in ran.out
    assert "with version 1 of the protocol" in ran.out
    assert " of at most 50.0 MB\n" in ran.out
    (line,) = (line for line in ran.out.splitlines() if line.startswith(kernel_id[:8]))
    assert "folder/a.ipynb" in line


def test_what_waits_for_a_client_that_is_away_is_shown_until_it_is_back(
    server: Server, cli: CommandLine, unused_kernel_id: str
) -> None:
    client = go_away(server, unused_kernel_id)
    with Channel(server, unused_kernel_id) as channel:
        channel.print("print('x' * 200_000)")
        away = shown(cli, unused_kernel_id)
        listed, as_json = cli("list"), cli("list", "--json")
        with Channel(server, unused_kernel_id, client, busy=True) as again:
            again.execute("1")
            back = shown(cli, unused_kernel_id)

    assert (away["connected"], away["away"]) == (1, 1)
    assert away["away_seconds"] > 0
    assert 200_000 < away["waiting_bytes"] <= away["kept_bytes"] < 1_000_000
    assert re.search(r"Kept for pages that are away: 2\d\d kB of \d kernel", listed.err)
    assert listed.err.endswith(", see `jupyter nbsessions keeper`\n")
    assert as_json.err == ""
    assert (back["connected"], back["away"]) == (2, 0)
    assert (back["waiting_bytes"], back["away_seconds"]) == (0, None)


def test_replies_are_kept_while_the_server_is_dead(
    server: Server, cli: CommandLine, kernel_id: str
) -> None:
    with Channel(server, kernel_id):
        server.kill()
        wait_until(lambda: status_of(server, kernel_id).standing_in, "the keeper stands in")
    kernel = shown(cli, kernel_id)
    ran = cli("keeper")

    assert kernel["keeps_replies"]
    assert kernel["connected"] == 0
    assert kernel["paths"] == ["folder/a.ipynb"]
    (line,) = (line for line in ran.out.splitlines() if line.startswith(kernel_id[:8]))
    assert line.rstrip().endswith("kept")
    server.start(again=True)
    server.list_sessions()


def test_nobody_stops_it_unasked(server: Server, cli: CommandLine, kernel_id: str) -> None:
    before = find_keeper(server)
    ran = cli("keeper", "stop")
    status, screen = cli.ask("keeper", "stop", answer="n\n")

    assert (ran.status, ran.out) == (1, "")
    assert "not a terminal: use --yes" in ran.err
    assert status == 1
    assert "Stop the keeper?" in screen
    assert "within two seconds" in screen
    assert "The keeper was not stopped" in screen
    after = find_keeper(server)
    assert before is not None
    assert after is not None
    assert before.pid == after.pid


def test_a_running_server_replaces_a_keeper_that_was_stopped(
    server: Server, cli: CommandLine, kernel_id: str
) -> None:
    go_away(server, kernel_id)
    before = wait_until(lambda: find_keeper(server), "there is a keeper")

    ran = cli("keeper", "stop", "-y")

    assert (ran.status, ran.out) == (0, f"Stopped the keeper (process {before.pid})\n")
    assert "What kernels say is lost until a running server has started another" in ran.err
    after = wait_until(lambda: find_keeper(server), "there is another")
    assert after.pid != before.pid
    away = before.kernels[kernel_id].away
    wait_until(lambda: status_of(server, kernel_id).away == away, "it knows who is away")


def test_that_a_keeper_is_missing_is_told_until_a_server_starts_one(
    server: Server, cli: CommandLine, kernel_id: str
) -> None:
    server.kill()
    stopped = cli("keeper", "stop", "--yes")
    shown, doctor, report = cli("keeper"), cli("doctor"), cli("keeper", "--json")

    assert "until the next server is started" in stopped.err
    assert (shown.status, shown.out) == (1, "")
    assert "No keeper runs, although " in shown.err
    assert "The next server that takes over or starts a kernel starts another" in shown.err
    assert report.status == 1
    assert '"running": false' in report.out
    assert '"needed": true' in report.out
    assert "keeper: no keeper runs, although " in doctor.out
    assert doctor.status == 0
    assert cli("keeper", "stop", "-y").err == "No keeper runs\n"
    server.start(again=True)
    server.list_sessions()
    wait_until(lambda: find_keeper(server), "the server has started one")
    assert "keeper: process " in cli("doctor").out


@pytest.mark.parametrize("arguments", [["me"], ["stop", "me"]])
def test_it_takes_no_names(cli: CommandLine, arguments: list[str]) -> None:
    ran = cli("keeper", *arguments)
    assert ran.status == 1
    assert "takes no arguments" in ran.err


def test_where_no_kernel_may_outlive_its_server_none_runs(start_server: StartServer) -> None:
    server = start_server(start=False)
    cli = CommandLine(server)
    names = sorted(server.folder.rglob("*"))

    ran, report, stopped = cli("keeper"), cli("keeper", "--json"), cli("keeper", "stop", "-y")

    assert (ran.status, ran.out) == (0, "")
    assert ran.err == "No keeper runs, because no kernel may outlive its server\n"
    assert report.json() == {
        **dict.fromkeys(KEYS),
        "running": False,
        "needed": False,
        "kernels": [],
    }
    assert (stopped.status, stopped.err) == (1, "No keeper runs\n")
    assert sorted(server.folder.rglob("*")) == names


def test_where_output_is_not_to_be_kept_that_is_told(start_server: StartServer) -> None:
    server = start_server(
        config={"SurvivingKernels": {"keep_output": False, "orphan_timeout": None}}
    )
    server.create("a.ipynb")
    server.wait_for_kernels(1)
    cli = CommandLine(server)
    ran, doctor = cli("keeper"), cli("doctor")
    assert ran.status == 0
    assert ran.err.startswith("No keeper runs, because nothing is kept of what kernels say")
    assert "warning keeper: keep_output is False: what kernels say" in doctor.out
    assert "nothing is kept of what 1 kernel said, because keep_output was False" in doctor.out
