"""What a keeper knows of a kernel and its clients, over crashes of servers and of keepers."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nbsessions.keeper.clients import MOST_AWAY
from nbsessions.keeper.delivery import acknowledged_bytes
from nbsessions.keeper.kernel import NO_KEEPER, TOO_LARGE
from nbsessions.keeper.marks import ANSWERED
from nbsessions.keeper.messages import PARENT, key_of_request
from nbsessions.keeper.reading import SpoolReader
from nbsessions.keeper.records import Kind
from support import keepers
from support.keepers import FakeKernel, RunningKeeper, Server, being_delivered, kept
from support.spools import EVERYTHING, make_message
from support.store_processes import OtherProcess
from support.waiting import wait_until

MakeKernel = Callable[..., FakeKernel]
Websocket = tuple[socket.socket, socket.socket]


@pytest.fixture
def websocket() -> Iterator[Websocket]:
    """The server's and the client's end of a connection."""
    with connected() as ends:
        yield ends


@contextmanager
def connected() -> Iterator[Websocket]:
    """Yield the server's and the client's end of a connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server, _ = listener.accept()
        with server:
            yield server, client


def said(count: int) -> list[list[bytes]]:
    return [make_message("stream", lines=1) for _ in range(count)]


def size(messages: list[list[bytes]]) -> int:
    return sum(sum(map(len, each)) for each in messages)


def flush(server: Server, kernel: FakeKernel) -> None:
    server.link.flush(kernel.kernel_id).result(30)


def wait_for_arrival(keeper: RunningKeeper, kernel: FakeKernel, count: int) -> None:
    """Wait until the keeper has received so many messages of the kernel in all."""
    wait_until(
        lambda: keeper.status()["kernels"][kernel.kernel_id]["position"] == count, "all arrived"
    )


# Listening


def test_all_that_a_kernel_says_is_kept_for_its_clients(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    assert server.attach(kernel.kernel_id, "client", websocket[0]) is None
    messages = said(2500)
    kernel.publish(*messages)
    # More than what the keeper receives at once.
    wait_until(lambda: flush(server, kernel) or len(kept(keeper, kernel)) == 2500, "all arrived")
    assert [each.frames for each in kept(keeper, kernel)] == messages
    assert kept(keeper, kernel)[-1].lines == 2500


def test_nothing_is_kept_without_clients(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    kernel.publish(*said(10))
    wait_for_arrival(keeper, kernel, 10)
    flush(server, kernel)
    assert kept(keeper, kernel) == []


def test_a_kernel_that_publishes_elsewhere_is_followed(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    server.attach(kernel.kernel_id, "client", websocket[0])
    before, after = said(3), said(3)
    kernel.publish(*before)
    wait_for_arrival(keeper, kernel, 3)
    kernel.move()
    server.link.watch(kernel.kernel_id)
    kernel.wait_for_keeper()
    kernel.publish(*after)
    wait_until(lambda: flush(server, kernel) or len(kept(keeper, kernel)) == 6, "all arrived")
    assert [each.frames for each in kept(keeper, kernel)] == before + after


def test_what_is_too_large_is_noted(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    server.attach(kernel.kernel_id, "client", websocket[0])
    kernel.publish(*said(1), make_message("stream", 600_000, lines=7), *said(1))
    reader = SpoolReader(keeper.folder.spools, kernel.kernel_id, 0, 0)

    def is_complete() -> bool:
        flush(server, kernel)
        reader.read(EVERYTHING)
        return reader.position == 3

    wait_until(is_complete, "all arrived")
    losses = reader.losses
    assert (losses.messages, losses.lines, losses.reason) == (1, 7, TOO_LARGE)
    reader.close()


def test_nonsense_of_a_kernel_is_reported_once(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    server.attach(kernel.kernel_id, "client", websocket[0])
    for _ in range(5):
        kernel.iopub.send_multipart([b"nonsense"])
    kernel.publish(*said(1))
    wait_until(lambda: flush(server, kernel) or kept(keeper, kernel), "it has arrived")
    assert keeper.log().count("sends nonsense") == 1


# What clients have been sent


def test_a_client_that_is_back_gets_what_it_was_not_sent(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    server.attach(kernel.kernel_id, "client", websocket[0])
    messages = said(10)
    kernel.publish(*messages)
    reply = make_message("execute_reply")
    reply[PARENT] = b'{"msg_id": "request"}'
    server.send("client", [*messages[:4]])
    wait_until(lambda: acknowledged_bytes(websocket[0]) == size(messages[:4]), "it has them")
    server.detach("client")
    with connected() as (again, _):
        known = server.attach(kernel.kernel_id, "client", again)
        assert known is not None
        assert (known.position, known.lines) == (4, 4)
        server.send("client", [reply], ANSWERED)
        wait_until(lambda: acknowledged_bytes(again) == size([reply]), "it has the reply")
        server.detach("client")
    known = server.attach(kernel.kernel_id, "client", websocket[0])
    assert known is not None
    assert known.answered == [key_of_request(reply[PARENT]).decode()]
    assert [each.frames for each in kept(keeper, kernel, known)] == messages[4:]


def test_clients_that_were_away_for_longest_are_forgotten(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    for number in range(MOST_AWAY + 5):
        server.attach(kernel.kernel_id, f"{number}", websocket[0])
    assert keeper.status()["kernels"][kernel.kernel_id]["clients"] == MOST_AWAY + 5
    for number in range(MOST_AWAY + 5):
        server.detach(f"{number}")
    assert server.attach(kernel.kernel_id, "4", websocket[0]) is None
    assert server.attach(kernel.kernel_id, f"{MOST_AWAY + 4}", websocket[0]) is not None
    assert keeper.status()["kernels"][kernel.kernel_id]["clients"] == MOST_AWAY + 1
    wait_until(lambda: len(keeper.folder.marks.list_names()) == 2, "the marks are removed")


def test_what_a_slow_client_has_got_is_known_although_it_is_no_longer_kept(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    with being_delivered(keeper, server, kernel) as (client, messages):
        kernel.publish(*(make_message("stream", 20_000, lines=1) for _ in range(100)))
        wait_until(lambda: flush(server, kernel) or has_left(keeper, kernel, 50), "they have left")
        received = b""
        while data := client.recv(65536):
            received += data
    assert len(received) == size(messages)
    known = server.attach(kernel.kernel_id, "client", websocket[0])
    assert known is not None
    assert known.position == 50


def has_left(keeper: RunningKeeper, kernel: FakeKernel, position: int) -> bool:
    return kept(keeper, kernel)[0].position > position


# Dead servers


def test_the_clients_of_a_killed_server_lose_nothing(
    keeper: RunningKeeper, server: Server, make_kernel: MakeKernel, other: OtherProcess
) -> None:
    kernel, port = keepers.start_elsewhere(keeper, make_kernel, other)
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert other.ask(keepers.accept, kernel.kernel_id, "client") is None
        messages = said(10)
        kernel.publish(*messages)
        other.ask(keepers.send, "client", messages[:6])
        other.kill()
        received = b""
        while data := client.recv(100_000):
            received += data
        assert received == b"".join(b"".join(each) for each in messages[:6])
    reply, question = make_message("execute_reply"), make_message("input_request")
    kernel.reply("client", reply)
    kernel.reply("client", question, "stdin")
    wait_until(lambda: len(kept(keeper, kernel)) == 12, "the replies are kept")
    kernel.belongs_to(server.servers.server_id)
    server.link.watch(kernel.kernel_id)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            websocket, _ = listener.accept()
        with websocket:
            known = server.attach(kernel.kernel_id, "client", websocket)
    assert known is not None
    assert (known.position, known.lines) == (6, 6)
    rest = kept(keeper, kernel, known)
    assert [each.frames for each in rest if each.kind is Kind.IOPUB] == messages[6:]
    replies = {each.kind: (each.client, each.frames) for each in rest}
    assert replies[Kind.SHELL] == ("client", reply)
    assert replies[Kind.STDIN] == ("client", question)


# Dead keepers


def test_a_server_soon_has_another_keeper(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    server.attach(kernel.kernel_id, "client", websocket[0])
    before, after = said(5), said(5)
    kernel.publish(*before)
    wait_until(lambda: flush(server, kernel) or len(kept(keeper, kernel)) == 5, "all arrived")
    server.send("client", before)
    keeper.kill()
    kernel.wait_for_another_keeper()
    kernel.publish(*after)
    wait_until(lambda: flush(server, kernel) or len(kept(keeper, kernel)) == 10, "all arrived")
    server.detach("client")
    known = server.attach(kernel.kernel_id, "client", websocket[0])
    assert known is not None
    assert (known.position, known.lines) == (5, 5)
    reader = SpoolReader(keeper.folder.spools, kernel.kernel_id, 5, 5)
    assert [each.frames for each in reader.read(EVERYTHING)] == after
    # Nobody knows what the kernel has said in the meantime.
    assert (reader.losses.messages, reader.losses.reason) == (1, NO_KEEPER)
    reader.close()


def test_positions_that_clients_have_are_not_used_again(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, websocket: Websocket
) -> None:
    kernel.publish(*said(100))
    wait_for_arrival(keeper, kernel, 100)
    server.attach(kernel.kernel_id, "client", websocket[0])
    keeper.kill()
    kernel.wait_for_another_keeper()
    after = said(3)
    kernel.publish(*after)
    wait_until(lambda: flush(server, kernel) or len(kept(keeper, kernel)) == 3, "all arrived")
    known = server.attach(kernel.kernel_id, "client", websocket[0])
    assert known is not None
    assert [each.frames for each in kept(keeper, kernel, known)] == after
