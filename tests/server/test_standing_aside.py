"""When somebody wants another session manager, or none of ours, there is nothing of us."""

from __future__ import annotations

import pytest

from support.environments import host
from support.server import Server, StartServer

OFF = {"nbsessions": False}


def _is_stock(server: Server) -> None:
    """Sessions work, and a body that is no object is answered as stock does: with a 500."""
    model = server.create("a.ipynb", kernel="python3")
    assert server.execute(model["kernel"]["id"], "6*7") == "42"
    assert server.patch(model["id"], {"path": "b.ipynb"}).json()["path"] == "b.ipynb"
    assert [each["path"] for each in server.list_sessions()] == ["b.ipynb"]
    server.allow_errors("Unhandled error|Uncaught exception|Exception")
    assert server.post(b"[]").status == 500
    assert server.delete(model["id"]).status == 204
    assert not server.store.parent.exists()


def test_a_session_manager_of_the_users_own_is_respected(start_server: StartServer) -> None:
    name = "support.managers.OwnSessionManager"
    server = start_server(config={"ServerApp": {"session_manager_class": name}})

    _is_stock(server)

    assert server.create("c.ipynb")["made_by"] == "own"
    (warning,) = server.log_lines("W", "nbsessions")
    assert name in warning
    assert server.stop() == 0


def test_a_session_manager_given_on_the_command_line_is_respected(
    start_server: StartServer,
) -> None:
    name = "support.managers.OwnSessionManager"
    server = start_server(arguments=[f"--ServerApp.session_manager_class={name}"])

    assert server.create("a.ipynb")["made_by"] == "own"
    assert len(server.log_lines("W", "nbsessions")) == 1


def test_without_the_extension_the_server_is_stock(start_server: StartServer) -> None:
    server = start_server(extensions=OFF)

    _is_stock(server)

    assert "nbsessions" not in server.log.replace(str(server.folder), "")


def test_without_the_extension_notebook_6_is_stock(start_server: StartServer) -> None:
    server = start_server("notebook6", extensions=OFF)

    _is_stock(server)


@pytest.mark.parametrize(
    ("host_name", "name"),
    [
        ("newest", "jupyter_server.services.sessions.sessionmanager.SessionManager"),
        ("notebook6", "notebook.services.sessions.sessionmanager.SessionManager"),
    ],
)
def test_the_hosts_own_class_is_respected_if_it_is_chosen(
    start_server: StartServer, host_name: str, name: str
) -> None:
    application = host(host_name).application
    server = start_server(host_name, config={application: {"session_manager_class": name}})

    _is_stock(server)

    (warning,) = server.log_lines("W", "nbsessions stands aside")
    assert name in warning


def test_our_class_can_be_configured_by_name(start_server: StartServer) -> None:
    name = "nbsessions.AsyncSessionManager"
    server = start_server(config={"ServerApp": {"session_manager_class": name}})

    server.create("a.ipynb")

    assert server.store.exists()
    assert server.log_lines("W", "nbsessions") == []


def test_the_extension_is_listed_as_enabled_and_ok(start_server: StartServer) -> None:
    server = start_server(start=False)

    listed = server.run("-m", "jupyter_server.extension.serverextension", "list")

    lines = [line for line in listed.splitlines() if "nbsessions" in line]
    assert any("enabled" in line for line in lines)
    assert any("OK" in line for line in lines)
