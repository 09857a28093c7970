"""``list`` and ``show`` with sessions whose kernels a gateway runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cli import CommandLine
from support.gateway import Gateway
from support.gateway_servers import start_behind
from support.server import Server, StartServer

pytestmark = pytest.mark.parametrize("gateway", ["kernel"], indirect=True)


@pytest.fixture
def server(start_server: StartServer, gateway: Gateway, store_url: str) -> Server:
    return start_behind(start_server, gateway, store_url)


def test_beside_a_server_sessions_are_shown_with_their_gateway(
    server: Server, gateway: Gateway
) -> None:
    cli = CommandLine(server)
    model = server.create("a.ipynb")
    (listed,) = cli.sessions()
    assert (listed["id"], listed["kernel_location"]) == (model["id"], gateway.url)
    assert (listed["server"], listed["owner_state"]) == ("running", "live")
    head, line = cli("list").out.splitlines()
    assert head.split()[:7] == ["id", "path", "type", "kernel", "runs", "at", "state"]
    assert gateway.url in line
    assert f"kernel location  {gateway.url}" in " ".join(cli("show", "a.ipynb").out.split(" " * 7))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_without_a_server_the_state_of_sessions_is_unknown(
    server: Server, gateway: Gateway, store_url: str, end: str
) -> None:
    model = server.create("a.ipynb")
    getattr(server, end)()
    cli = CommandLine(server)
    for arguments in ([], ["--store", store_url]):
        (listed,) = cli.sessions(*arguments)
        assert listed["id"] == model["id"]
        assert (listed["state"], listed["server"]) == ("unknown", "none")
        assert listed["kernel_location"] == gateway.url
        shown = cli("show", "--json", model["id"], *arguments).json()
        assert shown["kernel_location"] == gateway.url
        assert shown["owner_state"] in (None, "dead")
    gateway.wait_for_kernels(1)


def test_kernels_of_a_gateway_with_the_same_runtime_directory_are_not_local(
    server: Server, gateway: Gateway, tmp_path: Path
) -> None:
    server.create("a.ipynb")
    server.stop()
    cli = CommandLine(server)
    cli.environment["JUPYTER_RUNTIME_DIR"] = str(tmp_path / "gateway" / "runtime")
    (listed,) = cli.sessions()
    assert (listed["server"], listed["kernel_location"]) == ("none", gateway.url)
    assert len(cli.sessions("--orphans")) == 1
    assert cli("stop", "--orphans", "-y").out == "Stopped a.ipynb\n"
    gateway.wait_for_kernels(0)


def test_a_session_of_two_servers_is_listed_once(
    start_server: StartServer, server: Server, gateway: Gateway, store_url: str
) -> None:
    runtime = {"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)}
    options = {"environment": runtime}
    other = start_behind(start_server, gateway, store_url, options=options)
    model = server.create("a.ipynb")
    assert [each["id"] for each in other.list_sessions()] == [model["id"]]
    cli = CommandLine(server)
    assert [each["id"] for each in cli.sessions()] == [model["id"]]
    assert cli("show", "--json", model["id"]).json()["id"] == model["id"]


def test_a_server_that_cannot_be_asked_may_still_serve_sessions(
    server: Server, gateway: Gateway
) -> None:
    server.create("a.ipynb")
    cli = CommandLine(server)
    for info in server.runtime_dir.glob("jpserver-*.json"):
        info.unlink()
    (listed,) = cli.sessions()
    assert (listed["server"], listed["state"]) == ("unreachable", "unknown")
    assert listed["owner_state"] == "live"
