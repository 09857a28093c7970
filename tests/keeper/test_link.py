"""A server's link to its keeper: it never blocks, and fails in one way."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from nbsessions.keeper import link
from nbsessions.keeper.delivery import waiting_bytes
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.link import KeeperLink
from nbsessions.keeper.protocol import VERSION, Channel, Hello, Reply
from nbsessions.keeper.starting import KeeperFailed
from support.keepers import LOG, FakeKernel, RunningKeeper, Server, say, slow_connection
from support.spools import make_message
from support.waiting import wait_until


def make_link(registry: Path) -> KeeperLink:
    return KeeperLink(KeeperFolder(registry), "a-server", log=LOG)


def ask_everything(made: KeeperLink) -> list[Future[object]]:
    """Ask for all that a link is asked for. Return the futures."""
    made.watch("k")
    descriptor = os.dup(0)
    name, attaching = made.attach("k", "client", descriptor, 0)
    flushing = made.flush("k")
    made.detach(name)
    made.forget("k")
    return [attaching, flushing]  # type: ignore[list-item]


def check_failure(made: KeeperLink, caplog: pytest.LogCaptureFixture) -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        for each in ask_everything(made):
            assert isinstance(each.exception(30), OSError)
    made.close()
    made.close()
    assert os.listdir("/proc/self/fd") == before
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert "will be lost" in caplog.text


def test_a_file_in_the_place_of_the_folder_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "registry").touch()
    check_failure(make_link(tmp_path / "registry"), caplog)


def test_a_folder_of_another_user_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    check_failure(make_link(tmp_path), caplog)


def test_a_keeper_that_cannot_be_started_is_not_started_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []

    def fail(registry: Path) -> None:
        started.append(registry)
        raise KeeperFailed("no")

    monkeypatch.setattr(link, "start_keeper", fail)
    made = make_link(tmp_path)
    flushing = [made.flush("k") for _ in range(50)]
    assert {str(each.exception(30)) for each in flushing} == {"no"}
    made.close()
    assert len(started) == 2
    assert len(caplog.records) == 1


class Impostor:
    """Answers like a keeper, or not at all."""

    def __init__(self, folder: KeeperFolder, answers: list[bytes | Reply]) -> None:
        folder.make()
        self._folder = folder
        self._listener = folder.bind()
        self._answers = answers
        self._accepted: list[Channel] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for answer in self._answers:
            channel = Channel(self._listener.accept()[0])
            self._accepted.append(channel)
            channel.receive()
            if isinstance(answer, Reply):
                channel.send(answer)
            else:
                channel.connection.sendall(answer)

    def close(self) -> None:
        self._thread.join(30)
        # First, because whoever notices the end of a connection starts a keeper, which binds.
        self._folder.unbind()
        for each in self._accepted:
            each.close()
        self._listener.close()


@pytest.mark.parametrize("answer", [b"", b"\xff" * 100, b"\0\0\0\2[]"])
def test_a_keeper_that_does_not_answer_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(link, "_TIMEOUT", 0.2)
    impostor = Impostor(KeeperFolder(tmp_path), [answer])
    made = make_link(tmp_path)
    assert isinstance(made.flush("k").exception(30), OSError)
    made.close()
    impostor.close()


def test_a_keeper_that_ends_in_the_middle_is_replaced(
    keeper: RunningKeeper, server: Server
) -> None:
    impostor = Impostor(keeper.folder, [Reply(version=VERSION)])
    flushing = server.link.flush("k")
    impostor.close()
    assert "not kept" in str(flushing.exception(30))
    assert keeper.ask(Hello(version=VERSION)).pid == keeper.pid()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow descriptors above those that select() knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_server_with_many_open_files_notices_the_end_of_its_keeper(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    channel = server.link._channel
    assert channel is not None
    high = fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD_CLOEXEC, 2000)
    channel.connection.close()
    channel.connection = socket.socket(fileno=high)
    keeper.kill()
    kernel.wait_for_another_keeper()
    server.link.flush(kernel.kernel_id).result(30)


def test_connections_leave_no_descriptors(server: Server, kernel: FakeKernel) -> None:
    first, second = socket.socketpair()
    with first, second:
        server.link.flush(kernel.kernel_id).result(30)
        before = os.listdir("/proc/self/fd")
        for number in range(5):
            server.attach(kernel.kernel_id, f"{number}", first)
            server.detach(f"{number}")
        server.link.flush(kernel.kernel_id).result(30)
        assert os.listdir("/proc/self/fd") == before
        server.attach(kernel.kernel_id, "connected", first)
        server.link.close()
        server.mark("connected").close()
        assert len(os.listdir("/proc/self/fd")) == len(before) - 1


def test_a_client_that_leaves_after_the_link_has_ended_is_not_sent_anything_twice(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, tmp_path: Path
) -> None:
    messages = [make_message("stream", 100) for _ in range(5)]
    with slow_connection() as (websocket, _), slow_connection() as (another, _):
        server.attach(kernel.kernel_id, "client", websocket)
        server.attach(kernel.kernel_id, "another", another)
        say(keeper, server, kernel, messages)
        server.link.close()
        server.send("client", messages)
        server.detach("another")
        server.link.flush(kernel.kernel_id).result(30)
        server.detach("client")
        wait_until(lambda: not waiting_bytes(websocket), "the client has everything")
        follower = Server(tmp_path)
        known = follower.attach(kernel.kernel_id, "client", another)
        follower.close()
    assert known is not None
    assert known.position == len(messages)


def test_a_link_that_was_never_used_is_closed(tmp_path: Path) -> None:
    before = threading.active_count()
    made = make_link(tmp_path)
    made.close()
    made.close()
    assert threading.active_count() == before
    assert not list(tmp_path.iterdir())
