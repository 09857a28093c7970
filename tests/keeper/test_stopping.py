"""A keeper that is told to stop leaves files that tell what each client has been sent."""

from __future__ import annotations

import socket
import threading
import time

from nbsessions.keeper.asking import stop_keeper
from nbsessions.keeper.protocol import Stop
from support.keepers import (
    FakeKernel,
    RunningKeeper,
    Server,
    being_delivered,
    say,
    send_and_let_go,
    slow_connection,
)
from support.spools import make_message


def position_of(server: Server, kernel: FakeKernel) -> int | None:
    """Return the position that the next keeper knows of the client."""
    with slow_connection() as (websocket, _):
        known = server.attach(kernel.kernel_id, "client", websocket)
        server.detach("client")
    assert known is not None
    return known.position


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
    with being_delivered(keeper, server, kernel) as (client, _):
        timer = threading.Timer(0.3, read_all, [client])
        timer.start()
        stop_keeper(keeper.folder)
        timer.join()
    assert position_of(server, kernel) == 50


def test_a_client_that_does_not_read_is_not_waited_for(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    with being_delivered(keeper, server, kernel) as (client, messages):
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
