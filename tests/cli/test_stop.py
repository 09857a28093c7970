"""``stop``: through a server where one runs, by the kernel's process where none does."""

from __future__ import annotations

import socket

import psutil
import pytest

from support.cli import CommandLine, change_info, info_file
from support.failpoints import EXTENSION, Failpoints
from support.server import Server, StartServer, remove_at_once
from support.waiting import wait_until


def create_shared(server: Server) -> list[str]:
    """Create two sessions of one kernel, and return their paths."""
    kernel = server.create("a.ipynb")["kernel"]
    server.create("b.ipynb", {"id": kernel["id"], "name": kernel["name"]})
    server.wait_for_kernels(1)
    return ["a.ipynb", "b.ipynb"]


def kill(server: Server, kernels: int) -> None:
    """Kill the server once its kernels have their records."""
    server.wait_for_kernels(kernels)
    server.kill()


# Through a server


@pytest.mark.parametrize("by", ["id", "prefix", "path"])
def test_a_session_is_ended_with_its_kernel(server: Server, cli: CommandLine, by: str) -> None:
    model = server.create("a.ipynb")
    server.create("b.ipynb")
    wanted = {"id": model["id"], "prefix": model["id"][:8], "path": "a.ipynb"}[by]

    ran = cli("stop", wanted, "--yes")

    assert (ran.status, ran.out, ran.err) == (0, "Stopped a.ipynb\n", "")
    assert [each["path"] for each in server.list_sessions()] == ["b.ipynb"]
    server.wait_for_kernels(1)


def test_a_kernel_that_another_session_uses_goes_on(server: Server, cli: CommandLine) -> None:
    create_shared(server)

    assert cli("stop", "a.ipynb", "-y").status == 0

    assert [each["path"] for each in server.list_sessions()] == ["b.ipynb"]
    server.wait_for_kernels(1)


def test_all_sessions_are_ended(server: Server, cli: CommandLine) -> None:
    paths = [f"{number}.ipynb" for number in range(6)]
    for path in paths:
        server.create(path)
    kernel_id = server.start_kernel()

    ran = cli("stop", "--all", "-y")

    assert ran.status == 0
    assert sorted(ran.out.splitlines()) == [f"Stopped {path}" for path in paths]
    assert server.list_sessions() == []
    assert server.kernel_ids() == {kernel_id}


def test_a_progress_bar_is_shown_for_many(server: Server, cli: CommandLine) -> None:
    for number in range(5):
        server.create(f"{number}.ipynb")
    status, screen = cli.ask("stop", "--all", "-y", answer="")
    assert status == 0
    assert "Stopping" in screen


def test_several_can_be_named(server: Server, cli: CommandLine) -> None:
    for path in ("a.ipynb", "b.ipynb", "c.ipynb"):
        server.create(path)

    assert cli("stop", "a.ipynb", "b.ipynb", "/a.ipynb", "-y").status == 0

    assert [each["path"] for each in server.list_sessions()] == ["c.ipynb"]


def test_sessions_of_several_servers_are_ended(
    server: Server, cli: CommandLine, start_server: StartServer
) -> None:
    runtime = {"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)}
    other = start_server(base_url="/user/x/", data_dir=server.data_dir, environment=runtime)
    third = start_server(data_dir=server.data_dir, environment=runtime)
    for each in (server, other, third):
        each.create("a.ipynb")
    third.kill()

    assert cli("stop", "--all", "-y").status == 0

    assert server.list_sessions() == other.list_sessions() == []
    assert cli.sessions() == cli.sessions("--orphans") == []


@pytest.mark.parametrize(
    "changes", [{"token": "another"}, {"port": 1, "url": "http://localhost:1/"}]
)
def test_kernels_of_a_server_that_cannot_be_asked_go_on(
    server: Server, cli: CommandLine, changes: dict[str, object]
) -> None:
    server.create("a.ipynb")
    server.wait_for_kernels(1)
    change_info(server, **changes)

    ran = cli("stop", "--all", "-y")

    assert (ran.status, ran.out) == (1, "")
    assert "a.ipynb was not stopped: its server may still be running" in ran.err
    assert cli("stop", "--orphans", "-y").status == 1
    server.wait_for_kernels(1)


def test_what_a_server_refuses_is_said(start_server: StartServer) -> None:
    server = start_server(start=False, extensions=EXTENSION)
    failpoints = Failpoints(server.folder / "failpoints")
    server.environment.update(failpoints.environment)
    server.start()
    model = server.create("a.ipynb")
    failpoints.set("readonly")

    ran = CommandLine(server)("stop", "a.ipynb", "-y")

    assert (ran.status, ran.out) == (1, "")
    assert f"answered 503 when asked to end {model['id']}" in ran.err
    failpoints.clear("readonly")
    assert len(server.list_sessions()) == 1


# Without a server


def test_a_kernel_without_a_server_is_ended_by_its_record(
    server: Server, cli: CommandLine
) -> None:
    server.create("a.ipynb")
    server.create("b.ipynb")
    kill(server, kernels=2)

    ran = cli("stop", "a.ipynb", "-y")

    assert (ran.status, ran.out) == (0, "Stopped a.ipynb\n")
    server.wait_for_kernels(1)
    assert cli.paths() == ["b.ipynb"]
    assert len(list(server.runtime_dir.glob("kernel-*.json"))) == 1


def test_nothing_is_left_of_a_server_whose_last_kernel_was_ended(
    server: Server, cli: CommandLine
) -> None:
    server.create("a.ipynb")
    server.start_kernel()
    kill(server, kernels=2)

    assert cli("stop", "--orphans", "-y").status == 0

    server.wait_for_kernels(0)
    assert list((server.runtime_dir / "nbsessions" / "servers").iterdir()) == []
    server.start()
    assert server.list_sessions() == []


def test_all_leaves_kernels_without_a_session_alone(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    kernel_id = server.start_kernel()
    kill(server, kernels=2)

    assert cli("stop", "--all", "-y").status == 0

    assert [each["kernel_id"] for each in cli.sessions("--orphans")] == [kernel_id]
    assert cli("stop", kernel_id, "-y").out == f"Stopped kernel {kernel_id}\n"
    server.wait_for_kernels(0)


def test_a_kernel_that_another_session_uses_is_not_ended(server: Server, cli: CommandLine) -> None:
    paths = create_shared(server)
    kill(server, kernels=1)

    ran = cli("stop", "a.ipynb", "-y")

    assert ran.status == 1
    assert "a.ipynb was not stopped: its kernel is also used by b.ipynb" in ran.err
    server.wait_for_kernels(1)
    assert sorted(cli("stop", *paths, "-y").out.splitlines()) == [
        "Stopped a.ipynb",
        "Stopped b.ipynb",
    ]
    server.wait_for_kernels(0)


def test_orphans_of_a_shared_kernel_are_both_its_sessions(
    server: Server, cli: CommandLine
) -> None:
    paths = create_shared(server)
    kill(server, kernels=1)

    assert cli.paths("--orphans") == paths
    assert cli("stop", "--orphans", "-y").status == 0
    server.wait_for_kernels(0)


def test_orphans_are_ended_and_kernels_of_a_running_server_go_on(
    server: Server, cli: CommandLine, start_server: StartServer
) -> None:
    server.create("dead.ipynb")
    kill(server, kernels=1)
    runtime = {"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)}
    other = start_server(data_dir=server.data_dir, environment=runtime)
    other.create("live.ipynb")

    assert cli("stop", "--orphans", "-y").out == "Stopped dead.ipynb\n"

    assert cli.paths() == ["live.ipynb"]
    server.wait_for_kernels(1)


# Kernels that have lost their records


@pytest.fixture
def lost(server: Server) -> int:
    """The process of a kernel whose server is dead and whose record is lost."""
    server.create("a.ipynb")
    kill(server, kernels=1)
    remove_at_once(server.runtime_dir / "nbsessions")
    (process,) = server.kernel_processes()
    pid: int = process.pid
    wait_until(lambda: listening_port(pid), "the kernel listens")
    wait_until(lambda: not is_connected(pid), "the keeper has noticed that its folder is gone")
    return pid


def listening_port(pid: int) -> int:
    """Return a port that the process listens on; 0 while there is none."""
    connections = psutil.Process(pid).net_connections("tcp")
    return next((each.laddr.port for each in connections if each.status == "LISTEN"), 0)


def is_connected(pid: int) -> bool:
    connections = psutil.Process(pid).net_connections("tcp")
    return any(each.status == "ESTABLISHED" for each in connections)


def test_an_orphan_without_a_record_is_found_and_ended(
    server: Server, cli: CommandLine, lost: int
) -> None:
    (orphan,) = cli.sessions("--orphans")
    assert (orphan["path"], orphan["pid"], orphan["state"]) == (None, lost, "unknown")
    assert cli.sessions() == []

    assert cli("stop", "--orphans", "-y").out == f"Stopped kernel {orphan['kernel_id']}\n"

    wait_until(lambda: not server.kernel_processes(), "the kernel has ended")
    assert list(server.runtime_dir.glob("kernel-*.json")) == []


def test_a_kernel_that_somebody_is_connected_to_is_no_orphan(
    server: Server, cli: CommandLine, lost: int
) -> None:
    with socket.create_connection(("127.0.0.1", listening_port(lost))):
        wait_until(lambda: is_connected(lost), "the kernel has accepted it")
        assert cli.sessions("--orphans") == []
    wait_until(lambda: len(cli.sessions("--orphans")) == 1, "it is an orphan again")


def test_a_kernel_that_a_server_may_have_is_no_orphan(
    server: Server, cli: CommandLine, lost: int, start_server: StartServer
) -> None:
    runtime = {"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)}
    other = start_server(environment=runtime)
    assert len(cli.sessions("--orphans")) == 1
    change_info(other, token="another")
    assert cli.sessions("--orphans") == []


def test_kernels_that_do_not_outlive_their_server_are_no_orphans(
    start_server: StartServer,
) -> None:
    server = start_server(config={"SurvivingKernels": {"keep_kernels": "never"}})
    cli = CommandLine(server)
    model = server.create("a.ipynb")
    info_file(server).unlink()

    assert cli.sessions("--orphans") == []
    (listed,) = cli.sessions()
    assert (listed["kernel_id"], listed["pid"] is None) == (model["kernel"]["id"], False)


# Questions


def test_without_a_terminal_nothing_is_stopped(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")

    ran = cli("stop", "a.ipynb")

    assert (ran.status, ran.out) == (1, "")
    assert "not a terminal: use --yes" in ran.err
    assert len(server.list_sessions()) == 1


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"])
def test_who_is_asked_can_refuse(server: Server, cli: CommandLine, answer: str) -> None:
    server.create("a.ipynb")

    status, screen = cli.ask("stop", "a.ipynb", answer=answer)

    assert status == 1
    assert "Stop this?" in screen
    assert screen.rstrip().endswith("Nothing was stopped")
    assert len(server.list_sessions()) == 1


def test_who_is_asked_can_agree(server: Server, cli: CommandLine) -> None:
    for path in ("a.ipynb", "b.ipynb"):
        server.create(path)

    status, screen = cli.ask("stop", "--all", answer="y\n")

    assert status == 0
    assert "Stop these 2?" in screen
    assert "Stopped a.ipynb" in screen
    assert server.list_sessions() == []


def test_who_is_asked_can_interrupt(server: Server, cli: CommandLine) -> None:
    server.create("a.ipynb")
    status, _ = cli.ask("stop", "a.ipynb", answer="\x03")
    assert status == 130
    assert len(server.list_sessions()) == 1


@pytest.mark.parametrize("arguments", [["b.ipynb"], ["--all"], ["--orphans"]])
def test_what_is_not_there_cannot_be_stopped(
    server: Server, cli: CommandLine, arguments: list[str]
) -> None:
    ran = cli("stop", *arguments, "-y")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(
        ("no session has", "There are no sessions", "There are no orphaned kernels")
    )


@pytest.mark.parametrize("arguments", [[], ["a", "--all"], ["--all", "--orphans"]])
def test_it_has_to_be_said_what_to_stop(
    server: Server, cli: CommandLine, arguments: list[str]
) -> None:
    ran = cli("stop", *arguments, "-y")
    assert (ran.status, ran.err) == (1, "`stop` takes ids or paths, or --all, or --orphans\n")
