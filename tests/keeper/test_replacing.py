"""A keeper of a later release takes the place of an earlier one, and nothing is lost."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nbsessions.keeper.kernel import NO_KEEPER
from nbsessions.keeper.protocol import VERSION
from nbsessions.keeper.reading import SpoolReader
from nbsessions.keeper.records import Kind, Record
from nbsessions.keeper.starting import start_keeper
from support import keepers
from support.keepers import (
    FakeKernel,
    RunningKeeper,
    Server,
    being_delivered,
    end_process,
    has_gone,
    kept,
    slow_connection,
)
from support.spools import EVERYTHING, make_message
from support.store_processes import OtherProcess
from support.waiting import wait_until

MakeKernel = Callable[..., FakeKernel]
OLDER, NEWER = VERSION - 1, VERSION + 1
_START = """
import sys
from pathlib import Path
from nbsessions.keeper.starting import start_keeper
start_keeper(Path(sys.argv[1]))
"""
_NEVER_ENDS = """
import time
from nbsessions.keeper.reaping import Reaper
Reaper.stop = lambda self: time.sleep(600)
"""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's and the client's end of a connection."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def version_of(keeper: RunningKeeper) -> int:
    return int(keeper.status()["version"])


def wait_for_records(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, count: int
) -> list[Record]:
    """Return what is kept, once it is so many messages at least."""

    def find() -> list[Record] | None:
        server.link.flush(kernel.kernel_id).exception(30)
        found = kept(keeper, kernel)
        return found if len(found) >= count else None

    return wait_until(find, f"{count} messages are kept")


def check_complete(keeper: RunningKeeper, kernel: FakeKernel, said: list[list[bytes]]) -> None:
    """Check that everything is kept once and in order, and that no loss is noted."""
    reader = SpoolReader(keeper.folder.spools, kernel.kernel_id, 0, 0)
    found = []
    while some := reader.read(EVERYTHING):
        found.extend(some)
    reader.close()
    assert [each.frames for each in found] == said
    assert [each.position for each in found] == list(range(1, len(said) + 1))
    assert [each.lines for each in found] == [each.position for each in found]
    assert (reader.losses.messages, reader.losses.reason) == (0, "")


class Talk(threading.Thread):
    """Lets a kernel say something all the time."""

    def __init__(self, kernel: FakeKernel, pause: float) -> None:
        super().__init__()
        self.said: list[list[bytes]] = []
        self._kernel = kernel
        self._pause = pause
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._pause):
            self.said.append(make_message("stream", 300, lines=1))
            self._kernel.publish(self.said[-1])

    def end(self) -> list[list[bytes]]:
        self._ended.set()
        self.join()
        return self.said


# What kernels say


@pytest.mark.parametrize("pause", [0.0002, 0.02])
def test_what_a_kernel_says_meanwhile_is_kept_once(
    keeper: RunningKeeper,
    server: Server,
    make_kernel: MakeKernel,
    ends: tuple[socket.socket, socket.socket],
    pause: float,
) -> None:
    kernel = make_kernel(server.servers.server_id, limit=100_000_000)
    server.link.watch(kernel.kernel_id)
    kernel.wait_for_keeper()
    server.attach(kernel.kernel_id, "client", ends[0])
    talk = Talk(kernel, pause)
    talk.start()
    try:
        for version in range(NEWER, NEWER + 3):
            before = keeper.pid()
            wait_for_records(keeper, server, kernel, len(talk.said) + 1)
            assert keeper.start_version(version) != before
            assert version_of(keeper) == version
            wait_for_records(keeper, server, kernel, len(talk.said) + 1)
    finally:
        said = talk.end()
    wait_for_records(keeper, server, kernel, len(said))
    check_complete(keeper, kernel, said)


def test_no_loss_is_noted_of_a_kernel_that_is_quiet_meanwhile(
    keeper: RunningKeeper,
    server: Server,
    kernel: FakeKernel,
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server.attach(kernel.kernel_id, "client", ends[0])
    said = [make_message("stream", lines=1) for _ in range(6)]
    kernel.publish(*said[:3])
    wait_for_records(keeper, server, kernel, 3)
    keeper.start_version(NEWER)
    kernel.publish(*said[3:])
    wait_for_records(keeper, server, kernel, 6)
    check_complete(keeper, kernel, said)


def test_a_kernel_that_does_not_answer_is_not_waited_for(
    keeper: RunningKeeper,
    server: Server,
    kernel: FakeKernel,
    ends: tuple[socket.socket, socket.socket],
) -> None:
    server.attach(kernel.kernel_id, "client", ends[0])
    kernel.publish(make_message("stream", lines=1))
    wait_for_records(keeper, server, kernel, 1)
    port = kernel.record.connection_info["iopub_port"]
    kernel.iopub.close(linger=0)
    # ZMQ closes the port some time later.
    with wait_until(lambda: listening_at(port), "the port is free"):
        begun = time.monotonic()
        keeper.start_version(NEWER)
        assert time.monotonic() - begun < 10
    kernel.publish_again_at(port)
    kernel.wait_for_keeper()
    kernel.publish(make_message("stream", lines=1))
    wait_for_records(keeper, server, kernel, 2)
    reader = SpoolReader(keeper.folder.spools, kernel.kernel_id, 0, 0)
    assert [each.position for each in reader.read(EVERYTHING)] == [1, 3]
    assert (reader.losses.messages, reader.losses.reason) == (1, NO_KEEPER)
    reader.close()


def listening_at(port: int) -> socket.socket | None:
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


# Clients


def test_what_is_being_delivered_is_delivered_and_known_afterwards(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    with being_delivered(keeper, server, kernel) as (client, messages):
        keeper.start_version(NEWER)
        received = bytearray()
        while data := client.recv(65536):
            received += data
    assert bytes(received) == b"".join(b"".join(each) for each in messages)
    wait_until(lambda: not keeper.folder.marks.list_names(), "it is known what was sent")
    with slow_connection() as (websocket, client):
        known = server.attach(kernel.kernel_id, "client", websocket)
        assert known is not None
        assert known.position == 50


@pytest.mark.parametrize("killed", [False, True])
def test_replies_to_a_client_that_stays_away_are_kept_over_keepers(
    keeper: RunningKeeper,
    server: Server,
    make_kernel: MakeKernel,
    other: OtherProcess,
    ends: tuple[socket.socket, socket.socket],
    killed: bool,
) -> None:
    kernel, port = keepers.start_elsewhere(keeper, make_kernel, other)
    with socket.create_connection(("127.0.0.1", port)):
        other.ask(keepers.accept, kernel.kernel_id, "client")
        other.kill()
    kernel.reply("client", first := make_message("execute_reply"))
    wait_for_replies(keeper, kernel, [first])
    # Another server takes the kernel over. The client does not connect to it.
    kernel.belongs_to(server.servers.server_id)
    server.link.watch(kernel.kernel_id)
    server.link.flush(kernel.kernel_id).result(30)
    if killed:
        keeper.kill()
        kernel.wait_for_another_keeper()
    else:
        keeper.start_version(NEWER)
    kernel.reply("client", question := make_message("input_request"), "stdin")
    wait_for_replies(keeper, kernel, [first, question])
    # From now on, the server receives the replies.
    server.attach(kernel.kernel_id, "client", ends[0])
    wait_until(lambda: not kernel.send("client", question, "stdin"), "nobody stands in")
    keeper.start_version(NEWER + 1)
    server.link.flush(kernel.kernel_id).result(30)
    time.sleep(0.5)
    assert not kernel.send("client", question, "stdin")


def test_the_death_of_a_server_that_the_next_keeper_never_met_is_noticed(
    keeper: RunningKeeper, server: Server, make_kernel: MakeKernel, other: OtherProcess
) -> None:
    kernel, port = keepers.start_elsewhere(keeper, make_kernel, other)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(30)
        other.ask(keepers.accept, kernel.kernel_id, "client")
        other.suspend()
        keeper.start_version(NEWER)
        # Nobody can tell by the kernel that its first server has clients.
        kernel.belongs_to(server.servers.server_id)
        other.kill()
        assert client.recv(1) == b""
    kernel.reply("client", reply := make_message("execute_reply"))
    wait_for_replies(keeper, kernel, [reply])


def wait_for_replies(
    keeper: RunningKeeper, kernel: FakeKernel, expected: list[list[bytes]]
) -> None:
    def are_kept() -> bool:
        replies = [each.frames for each in kept(keeper, kernel) if each.kind is not Kind.IOPUB]
        return replies == expected

    wait_until(are_kept, "the replies are kept")


# Versions


def test_a_server_replaces_the_keeper_of_an_earlier_release(
    keeper: RunningKeeper, server: Server, make_kernel: MakeKernel
) -> None:
    older = keeper.start_version(OLDER)
    kernel = make_kernel(server.servers.server_id)
    kernel.wait_for_keeper()
    assert version_of(keeper) == OLDER
    server.link.watch(kernel.kernel_id)
    server.link.flush(kernel.kernel_id).result(30)
    wait_until(lambda: has_gone(older), "the earlier keeper has ended")
    assert version_of(keeper) == VERSION


def test_a_keeper_of_a_later_release_serves_this_one(
    keeper: RunningKeeper, server: Server, make_kernel: MakeKernel
) -> None:
    newer = keeper.start_version(NEWER)
    kernel = make_kernel(server.servers.server_id)
    server.link.watch(kernel.kernel_id)
    server.link.flush(kernel.kernel_id).result(30)
    start_keeper(keeper.folder.registry)
    assert keeper.pid() == newer


def test_keepers_that_replace_another_one_at_once_are_one(
    keeper: RunningKeeper, make_kernel: MakeKernel
) -> None:
    older = keeper.start_version(OLDER)
    make_kernel().wait_for_keeper()
    command = [sys.executable, "-c", _START, str(keeper.folder.registry)]
    starting = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    assert [each.communicate()[1] for each in starting] == [b""] * 4
    wait_until(lambda: has_gone(older), "the earlier keeper has ended")
    assert version_of(keeper) == VERSION
    assert keeper.log().count("replaces the keeper") == 1
    assert keeper.log().count("Started with process id") == 2


def test_a_keeper_that_does_not_end_is_reported_and_replaced_when_it_has(
    keeper: RunningKeeper,
    server: Server,
    make_kernel: MakeKernel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    older = keeper.start_version(OLDER, _NEVER_ENDS)
    kernel = make_kernel(server.servers.server_id)
    kernel.wait_for_keeper()
    server.link.watch(kernel.kernel_id)
    assert server.link.flush(kernel.kernel_id).exception(60)
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "cannot be reached" in caplog.text
    end_process(older)

    def has_another() -> bool:
        with contextlib.suppress(OSError):
            return version_of(keeper) == VERSION
        return False

    wait_until(has_another, "there is another keeper")
