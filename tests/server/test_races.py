"""Many requests at once, and clients that do not wait for the answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from support.failpoints import EXTENSION, Failpoints
from support.rest import Reply
from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until

COUNT = 32


@pytest.fixture(scope="module")
def shared(start_shared_server: StartServer) -> Server:
    server = start_shared_server(start=False, extensions=EXTENSION)
    server.environment.update(Failpoints(server.folder / "failpoints").environment)
    return server.start()


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """A server without sessions."""
    yield shared
    at_once([lambda m=model: shared.delete(m["id"]) for model in shared.list_sessions()])
    shared.wait_for_kernels(0)
    wait_for_rest(shared.store)


@pytest.fixture
def failpoints(shared: Server) -> Failpoints:
    return Failpoints(shared.folder / "failpoints")


def at_once(requests: list[Callable[[], Reply]]) -> list[Reply]:
    """Send all requests at the same moment and return the replies."""
    if not requests:
        return []
    barrier = threading.Barrier(len(requests))

    def run(request: Callable[[], Reply]) -> Reply:
        barrier.wait()
        return request()

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(run, requests))


def body(path: str, kernel: str = "light") -> dict[str, Any]:
    return {"path": path, "type": "notebook", "kernel": {"name": kernel}}


def test_one_path_that_is_posted_32_times_at_once_gets_one_session(server: Server) -> None:
    replies = at_once([lambda: server.post(body("a.ipynb", "python3"))] * COUNT)

    assert {reply.status for reply in replies} == {201}
    assert len({(reply.json()["id"], reply.json()["kernel"]["id"]) for reply in replies}) == 1
    assert len({reply.headers["location"] for reply in replies}) == 1
    assert len(server.list_sessions()) == 1
    assert len(server.kernel_processes()) == 1
    assert len(server.kernel_ids()) == 1


def test_32_paths_that_are_posted_at_once_get_a_session_each(server: Server) -> None:
    replies = at_once([lambda n=n: server.post(body(f"{n}.ipynb")) for n in range(COUNT)])

    assert {reply.status for reply in replies} == {201}
    assert {reply.json()["path"] for reply in replies} == {f"{n}.ipynb" for n in range(COUNT)}
    assert len(server.list_sessions()) == COUNT
    assert len(server.kernel_ids()) == COUNT
    assert len(server.kernel_processes()) == COUNT
    assert len(read_store(server.store).sessions) == COUNT


def test_sharers_that_are_deleted_at_once_leave_no_kernel(server: Server) -> None:
    kernel_id = server.create("0.ipynb")["kernel"]["id"]
    for number in range(1, 8):
        server.create(f"{number}.ipynb", {"id": kernel_id})

    replies = at_once([lambda m=m: server.delete(m["id"]) for m in server.list_sessions()])

    assert [reply.status for reply in replies] == [204] * 8
    assert server.kernel_ids() == set()


def test_a_session_that_is_deleted_8_times_at_once_is_deleted_once(server: Server) -> None:
    model = server.create("a.ipynb")

    replies = at_once([lambda: server.delete(model["id"])] * 8)

    assert sorted(reply.status for reply in replies) == [204] + [404] * 7


def test_creates_and_deletes_of_one_path_at_once_leave_it_usable(server: Server) -> None:
    def create_and_delete() -> Reply:
        reply = server.post(body("a.ipynb"))
        assert reply.status in (201, 503)
        return server.delete(reply.json()["id"])

    replies = at_once([create_and_delete] * 8)

    assert {reply.status for reply in replies} <= {204, 404}
    assert server.create("a.ipynb")["path"] == "a.ipynb"
    assert len(server.kernel_ids()) == 1


@pytest.mark.parametrize("point", ["before acquire", "after start", "before commit"])
def test_a_create_whose_client_hangs_up_leaves_a_whole_session(
    server: Server, failpoints: Failpoints, point: str
) -> None:
    failpoints.set("hold", point)
    with _post_sent(server, b'{"path": "a.ipynb", "type": "file", "kernel": {"name": "light"}}'):
        wait_until(lambda: failpoints.is_held, "the server is at the point")
    failpoints.clear("hold")

    (model,) = wait_until(server.list_sessions, "the session is there")
    assert server.kernel_ids() == {model["kernel"]["id"]}
    assert len(server.kernel_processes()) == 1
    assert server.create("a.ipynb")["id"] == model["id"]


def test_a_create_that_is_half_sent_leaves_nothing(server: Server) -> None:
    with _post_sent(server, b'{"path": "a.ipynb", "type": "fi', length=100):
        pass

    assert server.list_sessions() == []
    assert server.kernel_ids() == set()


def test_clients_that_hang_up_at_any_moment_leave_whole_sessions(server: Server) -> None:
    def post_and_hang_up(number: int) -> None:
        sent = f'{{"path": "{number}", "type": "file", "kernel": {{"name": "light"}}}}'
        with _post_sent(server, sent.encode()) as client:
            client.settimeout(0.005 * (number + 1))
            with suppress(TimeoutError):
                client.recv(1)

    with ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(post_and_hang_up, range(COUNT // 2)))

    def are_whole() -> bool:
        contents = read_store(server.store)
        held = {row["kernel_id"] for row in contents.sessions}
        return not contents.unfinished() and held == server.kernel_ids()

    # It goes through all that the others do, after them.
    server.create("last.ipynb")
    wait_until(are_whole, "each session has its kernel")
    assert len(server.kernel_processes()) == len(server.list_sessions())


def _post_sent(server: Server, content: bytes, length: int | None = None) -> socket.socket:
    """Return a connection that has sent a POST, and on which no answer was read."""
    head = (
        f"POST {server.url_path('/api/sessions')} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: token {server.token}\r\nContent-Length: {length or len(content)}\r\n\r\n"
    )
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(head.encode() + content)
    return client
