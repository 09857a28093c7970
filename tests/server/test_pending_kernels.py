"""Kernels that cannot start, with and without waiting for them."""

from __future__ import annotations

import pytest

from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until

HOSTS = ["newest", "oldest"]
BROKEN = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "broken"}}


def start_pending(start_server: StartServer, host_name: str) -> Server:
    """Start a server that answers before a kernel has started."""
    server = start_server(host_name, arguments=["--MappingKernelManager.use_pending_kernels=True"])
    server.allow_errors("No such file|Failed to run command|waiting for kernel manager ready")
    return server


@pytest.fixture(scope="module", params=HOSTS)
def server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    """A server that answers before a kernel has started."""
    return start_pending(start_shared_server, request.param)


def test_a_pending_kernel_is_answered_at_once_and_can_be_used(server: Server) -> None:
    model = server.create("a.ipynb", kernel="python3")

    assert server.execute(model["kernel"]["id"], "6*7") == "42"
    assert [each["id"] for each in server.list_sessions()] == [model["id"]]
    assert server.delete(model["id"]).status == 204
    server.wait_for_kernels(0)


def test_a_pending_kernel_that_failed_is_listed_as_dead_with_its_reason(server: Server) -> None:
    other = server.create("other.ipynb")
    reply = server.post(BROKEN)
    assert reply.status == 201
    session_id = reply.json()["id"]

    def dead() -> bool:
        return bool(server.get(session_id).json()["kernel"]["execution_state"] == "dead")

    wait_until(dead, "the kernel is listed as dead")
    models = server.list_sessions()
    assert [model["id"] for model in models] == [other["id"], session_id]
    assert "No such file" in models[1]["kernel"]["reason"]

    assert server.delete(session_id).status == 204
    assert [model["id"] for model in server.list_sessions()] == [other["id"]]
    # Stops are pending, too.
    wait_until(lambda: server.kernel_ids() == {other["kernel"]["id"]}, "the kernel is gone")
    wait_for_rest(server.store)
    server.delete(other["id"])


@pytest.mark.parametrize("host_name", HOSTS)
def test_a_server_with_a_pending_kernel_that_failed_stops_cleanly(
    start_server: StartServer, host_name: str
) -> None:
    server = start_pending(start_server, host_name)
    server.create("other.ipynb")
    assert server.post(BROKEN).status == 201

    assert server.stop() == 0

    assert server.kernel_processes() == []
    assert read_store(server.store).sessions == []
    assert read_store(server.store).unfinished() == []


@pytest.mark.parametrize("host_name", [*HOSTS, "notebook6"])
def test_a_kernel_that_cannot_start_leaves_a_server_that_stops_cleanly(
    start_server: StartServer, host_name: str
) -> None:
    server = start_server(host_name)
    server.allow_errors("did not start|No such file|Failed to run command|kernels/host.py")
    server.create("other.ipynb")

    reply = server.post(BROKEN)

    assert reply.status == 500
    assert "could not be started" in reply.message
    assert [model["path"] for model in server.list_sessions()] == ["other.ipynb"]
    assert read_store(server.store).unfinished() == []
    assert server.stop() == 0
    assert server.kernel_processes() == []
    assert read_store(server.store).sessions == []
