"""A server that is killed between an intent, the kernel at the gateway and the commit.

Every point is reached by one server of a fleet. What it leaves behind is brought in order by the
next start, and the gateway has no kernel without a session then.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.failpoints import EXTENSION, Failpoints
from support.gateway import Gateway
from support.gateway_servers import start_behind
from support.server import Server, StartServer
from support.storefile import wait_for_rest
from support.waiting import wait_until

CREATE = (
    # (where, whether the new session was committed)
    ("before acquire", False),
    ("after acquire", False),
    ("before start", False),
    ("after start", False),
    ("before commit", False),
    ("after commit", True),
)
DELETE = (
    # (where, whether the session was still there)
    ("before delete", True),
    ("after delete", False),
    ("before shutdown", False),
    ("after shutdown", False),
    ("before finish_stop", False),
    ("after finish_stop", False),
)
EXCHANGE = (
    # (where, whether the session had its new kernel)
    ("after acquire", False),
    ("after start", False),
    ("before update", False),
    ("after update", True),
    ("after shutdown", True),
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
def failpoints(tmp_path: Path) -> Failpoints:
    return Failpoints(tmp_path / "failpoints")


@pytest.fixture
def server(
    start_server: StartServer, gateway: Gateway, store: Path, failpoints: Failpoints
) -> Server:
    options = {"extensions": EXTENSION, "environment": failpoints.environment}
    return start_behind(start_server, gateway, f"sqlite://{store}", options=options)


def kill_at(server: Server, failpoints: Failpoints, point: str, ask: Callable[[], object]) -> None:
    """Let the server kill itself at the point, so that nobody is answered, and start it again."""
    failpoints.set("kill", point)
    with pytest.raises((http.client.HTTPException, OSError)):
        ask()
    server.wait_for_end()
    failpoints.clear("kill")
    server.start(again=True)


def sessions_of(server: Server) -> dict[str, Any]:
    """Return the kernels of the sessions by path."""
    return {each["path"]: each["kernel"] for each in server.list_sessions()}


def check_rest(server: Server, gateway: Gateway, store: Path) -> None:
    """Wait until nothing is under way. The gateway has the kernels of the sessions then."""
    wait_for_rest(store)

    def ids_at_the_gateway() -> list[str]:
        return sorted(each["id"] for each in gateway.request("GET", "/api/kernels"))

    expected = sorted(kernel["id"] for kernel in sessions_of(server).values())
    wait_until(lambda: ids_at_the_gateway() == expected, "every kernel has a session")
    gateway.wait_for_kernels(len(expected))


def test_a_kill_in_a_create_leaves_a_whole_session_or_nothing(
    server: Server, gateway: Gateway, store: Path, failpoints: Failpoints
) -> None:
    for point, committed in CREATE:
        path = f"{point}.ipynb"
        kill_at(server, failpoints, point, lambda path=path: server.create(path))
        assert (path in sessions_of(server)) == committed, point
    check_rest(server, gateway, store)
    for point, _ in CREATE:
        server.create(f"{point}.ipynb")
    check_rest(server, gateway, store)
    assert len(sessions_of(server)) == len(CREATE)


def test_a_kill_in_a_delete_leaves_a_whole_session_or_nothing(
    server: Server, gateway: Gateway, store: Path, failpoints: Failpoints
) -> None:
    for point, is_there in DELETE:
        model = server.create(f"{point}.ipynb")
        kill_at(server, failpoints, point, lambda model=model: server.delete(model["id"]))
        assert (model["path"] in sessions_of(server)) == is_there, point
    check_rest(server, gateway, store)


def test_a_kill_in_an_exchange_of_kernels_leaves_one_of_them(
    server: Server, gateway: Gateway, store: Path, failpoints: Failpoints
) -> None:
    model = server.create("a.ipynb")
    names = ["other", "light"]
    for point, is_exchanged in EXCHANGE:
        before = sessions_of(server)["a.ipynb"]
        (name,) = {*names} - {before["name"]}
        body = {"kernel": {"name": name}}
        kill_at(server, failpoints, point, lambda body=body: server.patch(model["id"], body))
        kernel = sessions_of(server)["a.ipynb"]
        assert kernel["name"] == (name if is_exchanged else before["name"]), point
        assert (kernel["id"] != before["id"]) == is_exchanged, point
    check_rest(server, gateway, store)
