"""A store that cannot be used when the server starts: 503 until it can, and nothing is denied."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from nbsessions.locks import FileLock
from support.failpoints import EXTENSION, Failpoints
from support.rest import Reply
from support.server import Server, StartServer
from support.storefile import locked
from support.waiting import wait_until


@contextmanager
def commits_held_up(file: Path) -> Iterator[None]:
    """Hold the lock that servers commit under, as one does that is stopped in a commit."""
    with closing(FileLock(file.with_name(f"{file.name}.write"))) as lock:
        assert lock.acquire()
        yield


@contextmanager
def being_repaired(file: Path) -> Iterator[None]:
    """Hold the lock of a server that repairs the file."""
    with closing(FileLock(file.with_name(f"{file.name}.lock"))) as lock:
        assert lock.acquire()
        yield


def leave_a_session(server: Server) -> dict[str, object]:
    """Create a session with a variable in its kernel, and kill the server."""
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    return model


def check_refused(reply: Reply) -> None:
    """It is a 503 that says when to try again."""
    assert reply.status == 503, reply.json()
    assert int(reply.headers["retry-after"]) > 0


def check_goes_on(server: Server, model: dict[str, object]) -> None:
    """The session, its kernel and the variable are there."""
    wait_until(lambda: server.request("GET", "/api/sessions").status == 200, "it is listed")
    (found,) = server.list_sessions()
    assert (found["id"], found["kernel"]["id"]) == (model["id"], model["kernel"]["id"])  # type: ignore[index]
    assert server.execute(found["kernel"]["id"], "x") == "42"


@pytest.mark.parametrize("held", [locked, commits_held_up, being_repaired])
def test_a_store_that_is_locked_at_the_start_is_waited_for(
    start_server: StartServer, held: type[AbstractContextManager[None]]
) -> None:
    server = start_server()
    model = leave_a_session(server)

    with held(server.store):  # type: ignore[call-arg]
        server.start()
        # At once: each is patient for some seconds.
        with ThreadPoolExecutor() as pool:
            replies = [
                pool.submit(server.request, "GET", "/api/sessions"),
                pool.submit(server.post, {"path": "a.ipynb", "type": "notebook"}),
                pool.submit(server.get, str(model["id"])),
            ]
        for reply in replies:
            check_refused(reply.result())
        assert len(server.kernel_ids()) == 1
        wait_until(
            lambda: server.log_lines("W", "Sessions are not available until"), "the log says so"
        )

    check_goes_on(server, model)
    assert server.log_lines("W", "The session store can be used now")


@pytest.mark.parametrize("point", ["find_orphans", "recover"])
def test_what_dead_servers_left_is_settled_before_sessions_are_listed(
    start_server: StartServer, tmp_path: Path, point: str
) -> None:
    failpoints = Failpoints(tmp_path / "failpoints")
    server = start_server(extensions=EXTENSION, environment=failpoints.environment)
    model = leave_a_session(server)
    failpoints.set("lost", point)

    server.start()
    check_refused(server.request("GET", "/api/sessions"))

    failpoints.clear("lost")
    check_goes_on(server, model)


def test_a_server_can_be_stopped_while_it_waits_for_its_store(start_server: StartServer) -> None:
    server = start_server()
    model = leave_a_session(server)
    with commits_held_up(server.store):
        server.start()
        server.kill()
        server.start()
        assert server.stop() == 0
    # The stop has ended the kernel, as it would have otherwise.
    server.wait_for_kernels(0)
    assert server.start().list_sessions() == []
    assert server.get(str(model["id"])).status == 404
