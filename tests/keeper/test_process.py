"""The life of a keeper's process: one runs, it survives nonsense, and ends in time."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from nbsessions.identity import process_key
from nbsessions.keeper.protocol import Attach, Hello, Status, Watch
from nbsessions.keeper.records import Kind
from nbsessions.keeper.starting import KeeperFailed, start_keeper
from nbsessions.locks import FileLock
from nbsessions.registry.process import attach
from support.keepers import FakeKernel, RunningKeeper, Server, has_gone, kept
from support.server import remove_at_once
from support.spools import make_message
from support.surviving import Place, Processes
from support.waiting import wait_until

MakeKernel = Callable[..., FakeKernel]
_START_AND_REACH = """
import sys
from pathlib import Path
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.starting import start_keeper
start_keeper(Path(sys.argv[1]))
KeeperFolder(Path(sys.argv[1])).connect(5.0).close()
"""


# Starting


def test_keepers_that_start_at_once_are_one(
    keeper: RunningKeeper, make_kernel: MakeKernel
) -> None:
    make_kernel()
    command = [sys.executable, "-c", _START_AND_REACH, str(keeper.folder.registry)]
    for _ in range(2):
        starting = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
        errors = [each.communicate()[1] for each in starting]
        assert [each.decode() for each in errors] == [""] * 4
        # Those that were not needed end a moment after the processes that have started them.
        wait_until(lambda: running(keeper) == [keeper.pid()], "one of them runs")
        keeper.kill()


def running(keeper: RunningKeeper) -> list[int]:
    """Return the ids of all processes that were started for this folder."""
    path = str(keeper.folder.registry)
    return [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if path in (each.info["cmdline"] or ()) and not has_gone(each.pid)
    ]


def test_a_keeper_that_is_ending_is_waited_for(keeper: RunningKeeper) -> None:
    keeper.folder.make()
    ending = FileLock(keeper.folder.lock)
    assert ending.acquire()
    timer = threading.Timer(1.0, ending.close)
    timer.start()
    assert keeper.start()
    timer.join()


def test_a_second_keeper_is_not_needed(keeper: RunningKeeper) -> None:
    assert keeper.start() == keeper.start()


def test_files_in_the_current_folder_are_not_run(
    keeper: RunningKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    for name in ("zmq", "queue", "msgspec"):
        Path(f"{name}.py").write_text("raise SystemExit('this is the user's module')")
    keeper.start()


def test_a_keeper_that_cannot_start_tells_why(tmp_path: Path) -> None:
    (tmp_path / "registry").touch()
    with pytest.raises(KeeperFailed, match="not a folder"):
        start_keeper(tmp_path / "registry")


def test_a_keeper_that_cannot_listen_tells_why(keeper: RunningKeeper) -> None:
    keeper.folder.make()
    (keeper.folder.path / "socket").mkdir()
    with pytest.raises(KeeperFailed, match="directory"):
        start_keeper(keeper.folder.registry)


def test_a_keeper_can_have_many_open_files(keeper: RunningKeeper) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        pid = keeper.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)[0] > 200


# Ending


def test_a_keeper_ends_with_the_last_kernel_and_leaves_nothing_of_it(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    first, second = socket.socketpair()
    with first, second:
        server.attach(kernel.kernel_id, "client", first)
    kernel.publish(make_message("stream"))

    def is_kept() -> bool:
        server.link.flush(kernel.kernel_id).result(30)
        return bool(kept(keeper, kernel))

    # A flush writes only what has arrived.
    wait_until(is_kept, "what the kernel has published is kept")
    pid = keeper.pid()
    server.link.forget(kernel.kernel_id)
    kernel.end()
    wait_until(lambda: has_gone(pid), "the keeper has ended")
    assert sorted(left(keeper)) == ["lock", "log"]


def test_a_keeper_ends_if_the_kernels_of_dead_servers_have_ended(
    keeper: RunningKeeper, place: Place, kernel: FakeKernel, spawn: Processes
) -> None:
    pid = keeper.pid()
    kernel.end()
    process = spawn.stranger()
    place.record(str(uuid.uuid4()), process, output_limit=1_000_000)
    attach(process).kill()
    wait_until(lambda: has_gone(pid), "the keeper has ended")
    assert len(place.records.list_ids()) == 1


def test_a_keeper_whose_files_were_removed_makes_way_for_another(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    server.link.watch(kernel.kernel_id)
    server.link.flush(kernel.kernel_id).result(30)
    pid = keeper.pid()
    remove_at_once(keeper.folder.path)
    wait_until(lambda: has_gone(pid), "the keeper has ended")
    kernel.wait_for_another_keeper()
    assert keeper.pid() != pid


def left(keeper: RunningKeeper) -> list[str]:
    return [each.name for each in keeper.folder.path.rglob("*") if not each.is_dir()]


def test_what_a_killed_keeper_has_left_of_ended_kernels_is_removed(
    keeper: RunningKeeper, make_kernel: MakeKernel
) -> None:
    keeper.folder.make()
    left_over = [
        keeper.folder.path / "spools" / "gone.00000001.spool",
        keeper.folder.path / "spools" / "gone.00000002.spool.draft",
        keeper.folder.path / "clients" / "gone.json",
        keeper.folder.path / "clients" / "gone.json.draft",
    ]
    for file in left_over:
        file.touch()
    (keeper.folder.path / "clients" / "gone.json").write_text(
        '{"c":{"position":1,"connection":"its-mark"}}'
    )
    (keeper.folder.path / "marks" / "its-mark").touch()
    kernel = make_kernel()
    (keeper.folder.path / "clients" / f"{kernel.kernel_id}.json").write_text("{}")
    keeper.start()
    kernel.wait_for_keeper()
    wait_until(
        lambda: not any("gone" in name or "mark" in name for name in left(keeper)), "they are gone"
    )
    assert f"{kernel.kernel_id}.json" in left(keeper)


# Nonsense


NONSENSE = {
    "random bytes": os.urandom(1000),
    "a huge length": struct.pack("!I", 2**32 - 1),
    "no request": struct.pack("!I", 2) + b"{}",
    "a file name": struct.pack("!I", 35) + b'{"type":"Watch","kernel_id":"../k"}',
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_ends_only_its_own_connection(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel, nonsense: str
) -> None:
    before = keeper.descriptors()
    channel = keeper.connect()
    with open(os.devnull, "rb") as file:
        socket.send_fds(channel.connection, [NONSENSE[nonsense]], [file.fileno()] * 3)
    assert not channel.receive()
    channel.close()
    server.link.flush(kernel.kernel_id).result(30)
    assert "A connection is closed" in keeper.log()
    wait_until(lambda: keeper.descriptors() == before, "the descriptors are closed")


def test_a_descriptor_that_is_no_socket_is_closed(
    keeper: RunningKeeper, kernel: FakeKernel
) -> None:
    hello = Hello(version=1, server_id="a-server")
    attach = Attach(kernel_id=kernel.kernel_id, client="c", connection="m", base=0)
    before = keeper.descriptors()
    for _ in range(3):
        with open(os.devnull, "rb") as file, pytest.raises(ConnectionError):
            keeper.ask(hello, attach, descriptor=file.fileno())
    wait_until(lambda: keeper.descriptors() == before, "the descriptors are closed")


def test_a_client_with_an_impossible_name_harms_nobody(
    keeper: RunningKeeper, server: Server, kernel: FakeKernel
) -> None:
    pid = keeper.pid()
    attach = Attach(kernel_id=kernel.kernel_id, client="ä" * 200, connection="m", base=None)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        hello = Hello(version=1, server_id="dying", process=process_key(process.pid))
        keeper.ask(hello, attach)
        process.communicate(b"\n")
    wait_until(lambda: "cannot be received" in keeper.log(), "its stand-in has failed")
    server.link.flush(kernel.kernel_id).result(30)
    assert keeper.pid() == pid


def test_a_kernel_without_a_record_is_not_kept(keeper: RunningKeeper) -> None:
    keeper.start()
    hello = Hello(version=1, server_id="a-server")
    reply = keeper.ask(hello, Attach(kernel_id="k", client="c", connection="m", base=None))
    assert reply.error
    assert keeper.ask(Watch(kernel_id="k")).error is None
    assert keeper.ask(Status()).status is not None


# Memory


def test_kernels_that_say_much_cost_little_memory(
    keeper: RunningKeeper, server: Server, make_kernel: MakeKernel
) -> None:
    kernels = [make_kernel(server.servers.server_id) for _ in range(10)]
    first, second = socket.socketpair()
    message = make_message("stream", 100_000)
    with first, second:
        for number, kernel in enumerate(kernels):
            server.link.watch(kernel.kernel_id)
            kernel.wait_for_keeper()
            server.attach(kernel.kernel_id, f"client-{number}", first)
    process, most = psutil.Process(keeper.pid()), 0
    for _ in range(20):
        for kernel in kernels:
            kernel.publish(*[message] * 10)
        for kernel in kernels:
            server.link.flush(kernel.kernel_id).result(60)
        most = max(most, process.memory_info().rss)
    assert most < 60_000_000
    assert all(kept(keeper, kernel)[-1].kind is Kind.IOPUB for kernel in kernels)
