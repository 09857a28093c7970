"""Clients of several servers that ask for one document at the same moment, behind a gateway.

``GATEWAY_ROUNDS`` in the environment sets how often they do.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.gateway import Gateway, running_gateway
from support.gateway_servers import start_behind
from support.postgres import shared_cluster
from support.server import Server, StartServer

SERVERS = 3
CLIENTS = 64
ROUNDS = int(os.environ.get("GATEWAY_ROUNDS", "3"))


@pytest.fixture(
    scope="module",
    params=[("kernel", "postgres"), ("enterprise", "sqlite")],
    ids=lambda kinds: "-".join(kinds),
)
def kinds(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The kinds of the gateway and the store."""
    kinds: tuple[str, str] = request.param
    return kinds


@pytest.fixture(scope="module")
def gateway(kinds: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateways") / "gateway"
    with running_gateway(kinds[0], folder) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def shared_servers(
    kinds: tuple[str, str],
    gateway: Gateway,
    start_shared_server: StartServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Server]:
    if kinds[1] == "postgres":
        url = shared_cluster().make_schema()
    else:
        url = f"sqlite://{tmp_path_factory.mktemp('store') / 'sessions.db'}"
    return [start_behind(start_shared_server, gateway, url) for _ in range(SERVERS)]


@pytest.fixture
def servers(shared_servers: list[Server], gateway: Gateway) -> list[Server]:
    """The servers, without sessions that a failed test has left."""
    end_all(shared_servers, gateway)
    return shared_servers


def ask_at_once(
    servers: list[Server], ask: Callable[[Server], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the answers to clients that ask all servers at the same moment."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(lambda client: ask(servers[client % SERVERS]), range(CLIENTS)))


def kernels_of(models: list[dict[str, Any]]) -> set[str]:
    return {each["kernel"]["id"] for each in models}


def end_all(servers: list[Server], gateway: Gateway) -> None:
    for model in servers[0].list_sessions():
        assert servers[1].delete(model["id"]).status == 204
    gateway.wait_for_kernels(0)
    assert [server.list_sessions() for server in servers] == [[], [], []]


def test_one_path_gets_one_session_and_one_kernel(servers: list[Server], gateway: Gateway) -> None:
    for number in range(ROUNDS):
        models = ask_at_once(servers, lambda server, n=number: server.create(f"{n}.ipynb"))
        # A kernel's activity goes on while they are answered.
        assert {each["id"] for each in models} == {models[0]["id"]}
        assert kernels_of(models) == {models[0]["kernel"]["id"]}
        assert len(gateway.kernel_processes()) == 1
        end_all(servers, gateway)


def test_windows_that_open_one_notebook_share_its_kernel(
    servers: list[Server], gateway: Gateway
) -> None:
    for number in range(ROUNDS):

        def open_window(server: Server, name: str = f"{number}.ipynb") -> dict[str, Any]:
            body = {
                "path": f"folder/{uuid.uuid4()}",
                "name": name,
                "type": "notebook",
                "kernel": {"name": "light"},
            }
            reply = server.post(body)
            assert reply.status == 201, reply.body
            model: dict[str, Any] = reply.json()
            assert model["path"] == body["path"]
            return model

        models = ask_at_once(servers, open_window)
        assert len({each["id"] for each in models}) == CLIENTS
        assert len(kernels_of(models)) == 1
        assert len(gateway.kernel_processes()) == 1
        # One that comes a moment later, and a program that sends the real path, share it, too.
        for server in servers:
            assert kernels_of([open_window(server)]) == kernels_of(models)
            assert kernels_of([server.create(f"folder/{number}.ipynb")]) == kernels_of(models)
        assert len(gateway.kernel_processes()) == 1
        end_all(servers, gateway)
