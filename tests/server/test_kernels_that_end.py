"""A session ends with its kernel, whatever ends that, and without anybody looking."""

from __future__ import annotations

import pytest

from support.server import Server, StartServer
from support.storefile import read_store
from support.waiting import wait_until

HOSTS = ["newest", "oldest", "notebook6"]


def wait_for_no_sessions(server: Server) -> None:
    """Look into the file only: a list would end sessions by itself."""
    wait_until(lambda: not read_store(server.store).sessions, "no session is in the file")


@pytest.mark.parametrize("host_name", HOSTS)
def test_a_session_ends_when_its_kernel_is_shut_down_by_another_route(
    start_server: StartServer, host_name: str
) -> None:
    server = start_server(host_name)
    model = server.create("a.ipynb")

    assert server.request("DELETE", f"/api/kernels/{model['kernel']['id']}").status == 204

    wait_for_no_sessions(server)
    # It is in the file before the server knows that it is there to stay, and says so.
    (line,) = wait_until(lambda: server.log_lines("I", "ended: its kernel"), "the log says so")
    assert model["id"] in line


def test_a_session_ends_when_its_kernel_is_culled(start_server: StartServer) -> None:
    culling = {"cull_idle_timeout": 1, "cull_interval": 1}
    server = start_server(config={"MappingKernelManager": culling})
    server.create("a.ipynb", "python3")
    wait_for_no_sessions(server)


def test_a_session_ends_when_its_kernel_cannot_be_restarted(start_server: StartServer) -> None:
    limits = {"time_to_dead": 0.2, "restart_limit": 0}
    server = start_server(config={"KernelRestarter": limits})
    server.create("a.ipynb")
    (kernel,) = server.kernel_processes()

    kernel.kill()

    wait_for_no_sessions(server)
    server.wait_for_kernels(0)


def test_who_ends_a_session_that_has_just_ended_is_not_told_off(
    start_server: StartServer,
) -> None:
    server = start_server()
    model = server.create("a.ipynb")
    server.request("DELETE", f"/api/kernels/{model['kernel']['id']}")
    wait_for_no_sessions(server)

    assert server.delete(model["id"]).status == 204
    assert server.get(model["id"]).status == 404
