"""A keeper that is told to stop leaves files that tell what each client has been sent."""

from __future__ import annotations

import socket
import threading
import time

from nbsessions.keeper.asking import stop_keeper
from nbsessions.keeper.protocol import Stop
from support.keepers import FakeKernel, RunningKeeper, Server, kept, slow_connection
from support.spools import make_message
from support.waiting import wait_until


def say(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, messages: list[list[bytes]]
) -> None:
    """Publish messages, and wait until they are kept."""
    kernel.publish(*messages)

    def are_kept() -> bool:
        server.link.flush(kernel.kernel_id).result(30)
        return len(kept(keeper, kernel)) == len(messages)

    wait_until(are_kept, "they are kept")


def position_of(server: Server, kernel: FakeKernel) -> int | None:
    """Return the position that the next keeper knows of the client."""
    with slow_connection() as (websocket, _):
        known = server.attach(kernel.kernel_id, "client", websocket)
        server.detach("client")
    assert known is not None
    return known.position


def send_and_let_go(
    server: Server, kernel: FakeKernel, websocket: socket.socket, messages: list[list[bytes]]
) -> None:
    """Send a client messages, and end its connection."""
    server.send("client", messages)
    server.detach("client")
    server.link.flush(kernel.kernel_id).result(30)
    websocket.close()


def read_all(client: socket.socket) -> int:
    size = 0
    while data := client.recv(65536):
        size += len(data)
    return size


def test_a_message_that_comes_late_is_waited_for(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    first, second = make_message("stream"), make_message("stream")
    with slow_connection() as (websocket, client):
        server.attach(kernel.kernel_id, "client", websocket)
        say(keeper, server, kernel, [first])
        send_and_let_go(server, kernel, websocket, [first, second])
        assert read_all(client)
        stopping = keeper.connect()
        stopping.send(Stop())
        kernel.publish(second)
        assert not stopping.receive()
        stopping.close()
    assert position_of(server, kernel) == 2


def test_a_client_that_reads_gets_all_and_nothing_twice(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    messages = [make_message("stream", 2000) for _ in range(50)]
    with slow_connection() as (websocket, client):
        server.attach(kernel.kernel_id, "client", websocket)
        say(keeper, server, kernel, messages)
        send_and_let_go(server, kernel, websocket, messages)
        timer = threading.Timer(0.3, read_all, [client])
        timer.start()
        stop_keeper(keeper.folder)
        timer.join()
    assert position_of(server, kernel) == 50


def test_a_client_that_does_not_read_is_not_waited_for(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    messages = [make_message("stream", 2000) for _ in range(50)]
    with slow_connection() as (websocket, client):
        server.attach(kernel.kernel_id, "client", websocket)
        say(keeper, server, kernel, messages)
        send_and_let_go(server, kernel, websocket, messages)
        begun = time.monotonic()
        stop_keeper(keeper.folder)
        assert time.monotonic() - begun < 4
        position = position_of(server, kernel)
        # It gets some of it twice, because nobody can tell that it will get that.
        assert read_all(client) == sum(len(b"".join(each)) for each in messages)
    assert position is not None
    assert 0 < position < 50


def test_a_keeper_with_nothing_to_find_out_stops_at_once(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    with slow_connection() as (websocket, _):
        server.attach(kernel.kernel_id, "client", websocket)
        begun = time.monotonic()
        stop_keeper(keeper.folder)
        assert time.monotonic() - begun < 1
