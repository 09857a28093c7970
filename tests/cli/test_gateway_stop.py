"""``stop`` with sessions whose kernels a gateway runs, and that no server serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.cli import CommandLine
from support.gateway import Gateway
from support.gateway_servers import die_in_a_start, start_behind
from support.server import Server, StartServer


@pytest.fixture
def server(start_server: StartServer, gateway: Gateway, store_url: str) -> Server:
    return start_behind(start_server, gateway, store_url)


one_gateway = pytest.mark.parametrize("gateway", ["kernel"], indirect=True)


def test_sessions_without_a_server_are_ended_with_their_kernels(
    server: Server, gateway: Gateway
) -> None:
    for path in ("a.ipynb", "b.ipynb"):
        server.create(path)
    server.kill()
    cli = CommandLine(server)
    assert cli.paths("--orphans") == ["a.ipynb", "b.ipynb"]
    ran = cli("stop", "--orphans", "-y")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == ["Stopped a.ipynb", "Stopped b.ipynb"]
    gateway.wait_for_kernels(0)
    assert cli.sessions() == []
    server.start(again=True)
    assert server.list_sessions() == []


def test_the_kernel_of_a_start_that_was_cut_short_is_an_orphan(
    start_server: StartServer, gateway: Gateway, store_url: str, tmp_path: Path
) -> None:
    server = die_in_a_start(start_server, gateway, store_url, tmp_path)
    (kernel,) = gateway.request("GET", "/api/kernels")
    cli = CommandLine(server)
    ran = cli("list")
    assert (ran.out, ran.status) == ("", 0)
    assert "Kernels without a session: 1" in ran.err
    (listed,) = cli.sessions("--orphans")
    assert (listed["id"], listed["kernel_id"]) == (None, kernel["id"])
    assert (listed["server"], listed["kernel_location"]) == ("none", gateway.url)
    assert "whose start or stop was cut short: 1" in cli("doctor").out
    stopped = cli("stop", "--orphans", "-y")
    assert stopped.out == f"Stopped kernel {kernel['id']}\n"
    assert "may take a minute" in stopped.err
    gateway.wait_for_kernels(0)
    assert cli.sessions("--orphans") == []


@one_gateway
def test_a_start_that_a_server_completes_is_no_orphan(
    start_server: StartServer, gateway: Gateway, store_url: str, tmp_path: Path
) -> None:
    server = die_in_a_start(start_server, gateway, store_url, tmp_path)
    gateway.pause()
    start_behind(start_server, gateway, store_url).list_sessions()
    assert CommandLine(server).sessions("--orphans") == []
    gateway.go_on()
    gateway.wait_for_kernels(0)


@one_gateway
def test_one_session_of_a_kernel_can_be_ended_alone(server: Server, gateway: Gateway) -> None:
    model = server.create("a.ipynb")
    server.create("b.ipynb", model["kernel"])
    server.create("c.ipynb")
    server.stop()
    cli = CommandLine(server)
    assert cli("stop", "a.ipynb", "-y").out == "Stopped a.ipynb\n"
    gateway.wait_for_kernels(2)
    assert cli("stop", "b.ipynb", "-y").out == "Stopped b.ipynb\n"
    gateway.wait_for_kernels(1)
    server.start(again=True)
    assert [each["path"] for each in server.list_sessions()] == ["c.ipynb"]


@one_gateway
def test_sessions_that_another_server_serves_are_no_orphans(
    start_server: StartServer, server: Server, gateway: Gateway, store_url: str
) -> None:
    server.create("a.ipynb")
    other = start_behind(start_server, gateway, store_url)
    assert len(other.list_sessions()) == 1
    server.stop()
    cli = CommandLine(server)
    assert cli.paths("--orphans") == []
    ran = cli("stop", "a.ipynb", "-y")
    assert ran.status == 1
    assert "may still be running" in ran.err
    gateway.wait_for_kernels(1)


@one_gateway
def test_other_namespaces_are_included_on_request(
    start_server: StartServer, server: Server, gateway: Gateway, store_url: str
) -> None:
    server.create("a.ipynb")
    server.stop()
    idle = {"start": False}
    other = start_behind(start_server, gateway, store_url, namespace="another", options=idle)
    cli = CommandLine(other)
    if store_url.startswith("postgres"):
        assert "There are no orphaned kernels" in cli("stop", "--orphans", "-y").err
    ran = cli("stop", "--orphans", "--all-namespaces", "-y")
    assert ran.out == "Stopped a.ipynb\n"
    gateway.wait_for_kernels(0)


@one_gateway
def test_what_the_gateway_does_not_tell_is_not_ended(server: Server, gateway: Gateway) -> None:
    server.create("a.ipynb")
    server.stop()
    cli = CommandLine(server)
    gateway.pause()
    ran = cli("stop", "--orphans", "-y")
    assert ran.status == 1
    assert "does not tell the state of its kernel" in ran.err
    gateway.go_on()
    server.configure({"AsyncSessionManager": server_settings(server)}, {})
    ran = cli("stop", "--orphans", "-y")
    assert ran.status == 1
    assert f"at the gateway {gateway.url}, which is not the configured one" in ran.err
    assert cli.paths("--orphans") == ["a.ipynb"]
    gateway.wait_for_kernels(1)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@one_gateway
def test_a_wrong_token_and_a_store_that_is_away_end_nothing(
    server: Server, gateway: Gateway
) -> None:
    server.create("a.ipynb")
    server.stop()
    cli = CommandLine(server)
    ran = cli("stop", "--orphans", "-y", "--GatewayClient.auth_token=wrong")
    assert (ran.status, ran.out) == (1, "")
    assert "the answer is 401" in ran.err
    assert "does not tell the state of its kernel" in ran.err
    ran = cli("stop", "--orphans", "-y", "--store", "postgresql://127.0.0.1:1/none")
    assert (ran.status, ran.out) == (1, "")
    assert "There are no orphaned kernels on this machine" in ran.err
    gateway.wait_for_kernels(1)


def server_settings(server: Server) -> dict[str, str]:
    """Return the settings of the server's session manager, without those of the gateway."""
    files = server.config_dir.glob("*.json")
    (settings,) = (json.loads(file.read_text())["AsyncSessionManager"] for file in files)
    return dict(settings)


@one_gateway
def test_the_doctor_says_that_sessions_wait_for_a_server(server: Server, gateway: Gateway) -> None:
    server.create("a.ipynb")
    server.stop()
    ran = CommandLine(server)("doctor")
    assert "sessions of a gateway without a server: 1" in ran.out
    assert "without a server; the next server takes over" not in ran.out
    assert ran.status == 0
    gateway.wait_for_kernels(1)
