"""A server that is told to stop while it is at work: no kernel and no session is left."""

from __future__ import annotations

import http.client
import signal
import threading

import pytest

from support.channel import V1, Channel
from support.failpoints import EXTENSION, Failpoints
from support.rest import SESSIONS, Reply
from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until


@pytest.fixture
def server(start_server: StartServer) -> Server:
    server = start_server(start=False, extensions=EXTENSION)
    server.environment.update(Failpoints(server.folder / "failpoints").environment)
    return server.start()


@pytest.fixture
def replies(server: Server, failpoints: Failpoints) -> list[Reply]:
    """Where the reply to a POST goes, that is held when its kernel has started."""
    replies: list[Reply] = []

    def post() -> None:
        body = {"path": "a.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
        try:
            replies.append(server.post(body))
        except (OSError, http.client.HTTPException):
            return  # The server may be gone before it answers.

    failpoints.set("hold", "after start")
    threading.Thread(target=post).start()
    wait_until(lambda: failpoints.is_held, "the kernel was started")
    return replies


def _check_nothing_is_left(server: Server) -> None:
    assert server.wait_for_end() == 0
    server.wait_for_kernels(0)
    contents = read_store(server.store)
    assert contents.sessions == []
    assert contents.unfinished() == []
    assert list(server.store.parent.glob("*.owner-*")) == []


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_keep_a_server_from_ending_its_kernels(
    start_server: StartServer, signum: int
) -> None:
    server = start_server(config={"SurvivingKernels": {"hangup": "stop"}})
    server.create("a.ipynb", "stubborn")
    server.send_signal(signum)
    wait_until(lambda: server.log_lines("I", "Shutting down 1 kernel"), "it ends its kernel")
    server.send_signal(signum)
    assert server.wait_for_end() == 0
    server.wait_for_kernels(0)


def test_a_create_that_ends_in_time_is_ended_with_its_server(
    server: Server, failpoints: Failpoints, replies: list[Reply]
) -> None:
    server.terminate()
    wait_until(lambda: server.log_lines("C", "stopping"), "the server is stopping")
    failpoints.clear("hold")

    _check_nothing_is_left(server)


def test_a_create_that_takes_too_long_is_undone_by_the_next_start_at_the_latest(
    server: Server, failpoints: Failpoints, replies: list[Reply]
) -> None:
    server.terminate()

    assert server.wait_for_end() == 0
    server.wait_for_kernels(0)
    assert read_store(server.store).sessions == []
    assert [reply.status for reply in replies] in ([], [503])
    failpoints.clear("hold")
    server.start()
    assert server.list_sessions() == []
    wait_for_rest(server.store)
    assert server.create("a.ipynb")["path"] == "a.ipynb"


def test_a_create_during_a_stop_is_refused(
    server: Server, failpoints: Failpoints, replies: list[Reply]
) -> None:
    body = {"path": "b.ipynb", "type": "notebook", "kernel": {"name": "light"}}
    with server.connect() as connection:
        assert server.request("GET", SESSIONS, connection=connection).status == 200
        server.terminate()
        wait_until(lambda: server.log_lines("I", "Shutting down \\d+ extension"), "it stops")
        reply = server.request("POST", SESSIONS, body, connection=connection)

    assert reply.status == 503
    assert "shutting down" in reply.message
    assert int(reply.headers["retry-after"]) > 0
    failpoints.clear("hold")
    _check_nothing_is_left(server)


def test_a_server_that_stops_while_a_client_waits_for_its_busy_kernel_ends_its_tasks(
    start_server: StartServer,
) -> None:
    server = start_server(
        config={"SurvivingKernels": {"keep_kernels": "restart"}},
        environment={"TELL_UNFINISHED_TASKS": "1"},
    )
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    with Channel(server, kernel_id, protocol=V1) as channel:
        channel.wait_for("execute_input", channel.start("import time; time.sleep(600)"))
    server.kill()
    server.start()
    server.list_sessions()  # The store is open.
    with Channel(server, kernel_id, busy=True, protocol=V1):
        wait_until(lambda: server.log_lines("I", "Connecting to kernel"), "the client is back")
        assert server.stop() == 0
    assert "== not done: nothing\n" in server.log
