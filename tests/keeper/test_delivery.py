"""How much a client gets of what its dead server has sent, over real connections."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbsessions.keeper.delivery import Delivery, acknowledged_bytes, sent_bytes, waiting_bytes
from support.kills import FRAME
from support.waiting import wait_until

Pair = tuple[socket.socket, socket.socket]
TESTS = Path(__file__).parents[1]
_SEND = "import socket, sys; from support.kills import send_without_end as send; " + (
    "send(socket.socket(fileno=int(sys.argv[1])))"
)


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A client's socket and its server's."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with (
        socket.create_server((request.param, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        client.settimeout(30)
        server, _ = listener.accept()
        with server:
            yield client, server


@contextlib.contextmanager
def killed_server(server: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Send from a process that is killed when the body ends. The socket here is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", _SEND, str(server.fileno())],
        pass_fds=[server.fileno()],
        cwd=TESTS,
    ) as process:
        server.close()
        try:
            yield process
        finally:
            process.kill()


def read_to_the_end(client: socket.socket, pause: threading.Event | None = None) -> bytes:
    received = bytearray()
    while data := client.recv(4096 if pause else 1_000_000):
        received += data
        if pause:
            pause.wait(0.0001)
    return bytes(received)


def end(delivery: Delivery) -> int | None:
    wait_until(delivery.is_complete, "the client has everything")
    accepted = delivery.accepted()
    delivery.close()
    delivery.close()
    return accepted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("slow", [False, True])
def test_a_client_gets_exactly_what_was_accepted(pair: Pair, seed: int, slow: bool) -> None:
    client, server = pair
    server.sendall(b"upgrade")
    base = sent_bytes(server)
    assert base is not None
    delivery = Delivery(server.dup(), base)
    chance = random.Random(seed)
    with killed_server(server):
        received = client.recv(len(b"upgrade") + chance.randrange(1, 2_000_000))
        if slow:
            wait_until(lambda: chance.random() < 0.1, "the buffers are full")
    delivery.end()
    received += read_to_the_end(client, threading.Event() if slow else None)
    assert end(delivery) == len(received) - len(b"upgrade")
    numbers = received[len(b"upgrade") :]
    for number in range(len(numbers) // FRAME):
        assert int(numbers[number * FRAME : (number + 1) * FRAME]) == number


def test_the_end_of_a_connection_counts_for_nothing(pair: Pair) -> None:
    client, server = pair
    delivery = Delivery(server.dup(), 0)
    server.sendall(b"all")
    delivery.end()
    assert client.recv(10) == b"all"
    assert client.recv(10) == b""
    assert end(delivery) == 3


def test_a_client_that_has_gone_gets_no_more(pair: Pair) -> None:
    client, server = pair
    delivery = Delivery(server.dup(), 0)
    server.sendall(b"some")
    assert client.recv(4) == b"some"
    client.close()
    delivery.end()
    assert end(delivery) == 4


def test_a_client_that_has_gone_without_reading_ends_it_too(pair: Pair) -> None:
    client, server = pair
    delivery = Delivery(server.dup(), 0)
    with killed_server(server):
        client.recv(1)
        client.close()
    delivery.end()
    assert end(delivery) is not None


def test_what_a_client_sends_into_the_void_costs_it_nothing(pair: Pair) -> None:
    client, server = pair
    left = server.dup()
    delivery = Delivery(left, 0)
    with killed_server(server):
        received = client.recv(1)
        client.sendall(b"input" * 1000)
        # While the client's system takes more, the loopback interface keeps less than this.
        wait_until(lambda: waiting_bytes(left) > 100_000, "the client's system has its share")
    delivery.end()
    assert not delivery.is_complete()
    client.sendall(b"input" * 1000)
    received += read_to_the_end(client)
    client.sendall(b"input" * 1000)
    assert end(delivery) == len(received)
    assert client.recv(1) == b""


def test_what_a_client_has_not_taken_is_counted_as_sent(pair: Pair) -> None:
    _, server = pair
    server.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += server.send(b"x" * 100_000)
    wait_until(lambda: 0 < waiting_bytes(server) < sent, "the client's system has its share")
    assert sent_bytes(server) == sent
    delivery = Delivery(server.dup(), 0)
    assert delivery.accepted() == acknowledged_bytes(server)
    delivery.close()


def test_other_sockets_cannot_tell() -> None:
    first, second = socket.socketpair()
    with first, second:
        assert sent_bytes(first) is acknowledged_bytes(first) is None
        delivery = Delivery(first.dup(), 0)
        assert delivery.accepted() is None
        delivery.close()
