"""Servers of two namespaces at one gateway: who ends the kernels that nobody serves any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.gateway import Gateway
from support.gateway_servers import die_in_a_start, start_behind
from support.server import Server, StartServer
from support.waiting import wait_until

AT_ONCE = 0.001
A_DAY = 86400.0
OLD = "of a server that is gone"


@pytest.fixture
def old(start_server: StartServer, gateway: Gateway, store_url: str) -> Server:
    """A server of its own namespace."""
    return start_behind(start_server, gateway, store_url, namespace=OLD)


def start_new(
    start_server: StartServer, gateway: Gateway, store_url: str, orphan_timeout: float
) -> Server:
    """Start a server of another namespace, and wait until its store is open."""
    settings = {"orphan_timeout": orphan_timeout}
    server = start_behind(start_server, gateway, store_url, GatewayKernels=settings)
    server.list_sessions()
    return server


def reason_of(server: Server, model: dict[str, Any]) -> str:
    reply = server.request("GET", f"/api/sessions/status?id={model['id']}")
    (missing,) = reply.json()["missing"]
    return str(missing["reason"])


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_ends_the_kernels_of_a_namespace_that_nobody_serves(
    start_server: StartServer, gateway: Gateway, store_url: str, old: Server, end: str
) -> None:
    models = [old.create(f"{number}.ipynb") for number in range(3)]
    getattr(old, end)()
    gateway.wait_for_kernels(3)
    new = start_new(start_server, gateway, store_url, AT_ONCE)
    mine = new.create("0.ipynb")
    gateway.wait_for_kernels(1)
    assert [each["id"] for each in new.list_sessions()] == [mine["id"]]
    wait_until(lambda: len(new.log_lines("I", "no server has served")) == 3, "the log says so")
    old.start(again=True)
    assert old.list_sessions() == []
    assert [reason_of(old, model) for model in models] == ["died"] * 3
    again = old.create("0.ipynb")
    assert [each["id"] for each in old.list_sessions()] == [again["id"]]
    gateway.wait_for_kernels(2)


def test_a_server_ends_the_kernel_of_a_start_that_was_cut_short(
    start_server: StartServer, gateway: Gateway, store_url: str, tmp_path: Path
) -> None:
    old = die_in_a_start(start_server, gateway, store_url, tmp_path, namespace=OLD)
    (kernel,) = gateway.request("GET", "/api/kernels")
    new = start_new(start_server, gateway, store_url, AT_ONCE)
    gateway.wait_for_kernels(0)
    line = f"{kernel['id']}.* is ended: no server has served"
    wait_until(lambda: new.log_lines("I", line), "the log says so")
    old.start(again=True)
    assert old.list_sessions() == []


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_kernels_are_left_alone_before_their_time_and_while_a_server_runs(
    start_server: StartServer, gateway: Gateway, store_url: str, old: Server
) -> None:
    model = old.create("a.ipynb", "python3")
    assert old.execute(model["kernel"]["id"], "x = 42; x") == "42"
    start_new(start_server, gateway, store_url, AT_ONCE)
    old.stop()
    for timeout in (0.0, A_DAY):
        start_new(start_server, gateway, store_url, timeout)
    old.start(again=True)
    assert [each["id"] for each in old.list_sessions()] == [model["id"]]
    assert old.execute(model["kernel"]["id"], "x") == "42"


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_kernels_are_left_alone_while_the_gateway_does_not_answer(
    start_server: StartServer, gateway: Gateway, store_url: str, old: Server
) -> None:
    model = old.create("a.ipynb")
    old.stop()
    gateway.pause()
    new = start_new(start_server, gateway, store_url, AT_ONCE)
    wait_until(lambda: new.log_lines("W", "are left alone"), "the log says so")
    gateway.go_on()
    old.start(again=True)
    assert [each["id"] for each in old.list_sessions()] == [model["id"]]
    gateway.wait_for_kernels(1)
