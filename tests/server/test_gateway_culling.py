"""Idle kernels of a gateway are culled by one of the servers that share them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from support.channel import Channel
from support.gateway import Gateway
from support.gateway_proxy import Fault, gateway_proxy
from support.gateway_servers import HasUrl, ids, start_behind
from support.server import Server, StartServer
from support.waiting import wait_until

TIMEOUT = 4
"""Seconds after which an idle kernel is culled in these tests."""
CULLS: Mapping[str, Any] = {"cull_idle_timeout": TIMEOUT, "cull_interval": 1}
LIVES_ON = 2.0 * TIMEOUT


def start_culling(
    start_server: StartServer, gateway: HasUrl, store_url: str, **more: bool
) -> Server:
    settings = {**CULLS, **more}
    return start_behind(start_server, gateway, store_url, MappingKernelManager=settings)


def culled(count: int, *servers: Server) -> list[str]:
    """Return what the servers write to their logs when ``count`` kernels are culled."""

    def lines() -> list[str]:
        return [line for server in servers for line in server.log_lines("W", "Culled ")]

    wait_until(lambda: len(lines()) >= count, "the servers have logged it")
    return lines()


def test_an_idle_kernel_is_culled_by_one_of_the_servers_although_none_was_asked_about_it(
    start_server: StartServer, gateway: Gateway, store_url: str
) -> None:
    first = start_behind(start_server, gateway, store_url)
    models = [first.create(f"{number}.ipynb") for number in range(3)]
    shared = first.create("shared.ipynb", {"id": models[0]["kernel"]["id"]})
    first.kill()
    others = [start_culling(start_server, gateway, store_url) for _ in range(3)]
    gateway.wait_for_kernels(0)
    for server in others:
        assert ids(server) == []
    lines = culled(3, *others)
    for model in models:
        (line,) = [each for each in lines if model["kernel"]["id"] in each]
        assert "with 0 connections" in line
    status = others[0].request("GET", f"/api/sessions/status?id={shared['id']}").json()
    assert [each["reason"] for each in status["missing"]] == ["ended"]


def test_a_kernel_that_is_used_at_any_server_is_not_culled(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    using = start_behind(start_server, gateway, sqlite_url)
    ran, connected, busy = (using.create(f"{name}.ipynb", "python3") for name in ("a", "b", "c"))
    with Channel(using, busy["kernel"]["id"]) as channel:
        channel.start("import time; time.sleep(600)")
    with Channel(using, connected["kernel"]["id"]):
        # The gateway counts no client of a kernel that is still starting.
        with Channel(using, ran["kernel"]["id"]) as channel:
            one, other = (start_culling(start_server, gateway, sqlite_url) for _ in range(2))
            assert channel.execute("6*7") == "42"
        deadline = time.monotonic() + LIVES_ON
        while time.monotonic() < deadline:
            assert other.execute(ran["kernel"]["id"], "6*7") == "42"
        assert {each for each, _ in ids(one)} == {ran["id"], connected["id"], busy["id"]}
    wait_until(lambda: [each for each, _ in ids(one)] == [busy["id"]], "idle kernels end")
    gateway.wait_for_kernels(1)
    assert len(culled(2, one, other)) == 2


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_connected_and_busy_kernels_are_culled_where_that_is_configured(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    using = start_behind(start_server, gateway, sqlite_url)
    connected, busy = (using.create(f"{name}.ipynb", "python3") for name in ("a", "b"))
    culling = start_culling(start_server, gateway, sqlite_url, cull_connected=True, cull_busy=True)
    with (
        Channel(using, connected["kernel"]["id"]),
        Channel(using, busy["kernel"]["id"]) as channel,
    ):
        channel.start("import time; time.sleep(600)")
        gateway.wait_for_kernels(0)
    assert ids(using) == []
    lines = culled(2, culling)
    assert ["'busy'" in line for line in lines].count(True) == 1
    assert all("with 1 connections" in line for line in lines)


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
@pytest.mark.parametrize("host_name", ["newest", "oldest"])
def test_a_client_that_left_before_the_gateway_answered_is_no_connection(
    start_server: StartServer, gateway: Gateway, sqlite_url: str, host_name: str
) -> None:
    server = start_behind(start_server, gateway, sqlite_url, host_name)
    model = server.create("a.ipynb", "python3")
    gateway.pause()
    Channel(server, model["kernel"]["id"]).close()
    gateway.go_on()
    start_culling(start_server, gateway, sqlite_url)
    gateway.wait_for_kernels(0)


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_a_kernel_without_a_session_is_culled_by_the_server_that_has_started_it(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    one, other = (start_culling(start_server, gateway, sqlite_url) for _ in range(2))
    kernel_id = one.start_kernel()
    assert other.request("GET", f"/api/kernels/{kernel_id}").status == 200
    gateway.wait_for_kernels(0)
    assert len(culled(1, one)) == 1
    assert culled(0, other) == []
    assert one.kernel_ids() == other.kernel_ids() == set()


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_a_kernel_that_a_killed_server_was_culling_ends_all_the_same(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    with gateway_proxy(gateway.port) as proxy:
        other = start_behind(start_server, proxy, sqlite_url)
        one = start_culling(start_server, proxy, sqlite_url)
        model = one.create("a.ipynb")
        proxy.begin(Fault.LOSES, method="DELETE")

        def is_being_shut_down() -> bool:
            return any(each.method == "DELETE" for each in proxy.requests)

        wait_until(is_being_shut_down, "the server has asked the gateway to end the kernel")
        one.kill()
        proxy.end()
        assert ids(other) == []
        gateway.wait_for_kernels(0)
        status = other.request("GET", f"/api/sessions/status?id={model['id']}").json()
        assert [each["reason"] for each in status["missing"]] == ["ended"]
