"""A server that is killed at random: each client gets each line once, and its reply."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from functools import partial

from support.channel import V1, Channel
from support.printing import COUNTING, Reader, reading
from support.server import StartServer
from support.waiting import wait_until

ROUNDS = int(os.environ.get("OUTPUT_ROUNDS", "5"))
UNLIMITED = {"ZMQChannelsWebsocketConnection": {"limit_rate": False}}


def test_every_line_reaches_every_client_once(start_server: StartServer) -> None:
    server = start_server(config=UNLIMITED, measured=False)
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    runs, watches = Reader(server, kernel_id), Reader(server, kernel_id)
    slow = Reader(server, kernel_id, pause=0.002)
    runs.request(COUNTING.format(rate=5000, flush=25))
    readers = [watches, slow, runs]
    with reading(watches, slow):
        for each in (watches, slow):
            assert each.connected.wait(60)
        with reading(runs):
            wait_until(lambda: all(each.printed() for each in readers), "all of them read")
            random.seed(os.environ.get("OUTPUT_SEED"))
            for _ in range(ROUNDS):
                time.sleep(random.uniform(0.0, 2.0))
                server.kill()
                time.sleep(random.choice([0.0, random.uniform(0.0, 5.0)]))
                server.start(again=True)
            (server.root_dir / "enough").touch()
            for each in readers:
                wait_until(partial(has_all, each), f"{each.name} has read all", timeout=120)
            wait_until(runs.replies, "the reply is there")
    for each in readers:
        check_lines(each)
    assert [reply["status"] for reply in runs.replies()] == ["ok"]
    assert [watches.replies(), slow.replies()] == [[], []]


def have_connected(readers: Sequence[Reader], times: int) -> bool:
    return all(each.connections >= times for each in readers)


def check_lines(reader: Reader) -> None:
    """Each line has been read once, and in order."""
    *lines, last = reader.printed().split("\n")[:-1]
    assert lines == [str(number) for number in range(1, len(lines) + 1)]
    assert last == f"all {len(lines)}"


def has_all(reader: Reader) -> bool:
    return "all" in reader.printed()


def test_a_server_that_is_restarted_under_its_clients_ends_in_time(
    start_server: StartServer,
) -> None:
    server = start_server(config={**UNLIMITED, "SurvivingKernels": {"keep_kernels": "restart"}})
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    readers = [Reader(server, kernel_id) for _ in range(8)]
    readers[0].request(COUNTING.format(rate=1000, flush=25))
    with reading(*readers):
        for number in range(4):
            wait_until(partial(have_connected, readers, number + 1), "all are back")
            assert server.stop() == 0
            server.start(again=True)
        (server.root_dir / "enough").touch()
        for each in readers:
            wait_until(partial(has_all, each), f"{each.name} has read all")
    check_lines(readers[0])


def test_clients_that_vanish_while_the_kernel_prints_are_no_errors(
    start_server: StartServer,
) -> None:
    server = start_server(config=UNLIMITED)
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    with Channel(server, kernel_id, protocol=V1) as channel:
        channel.start(COUNTING.format(rate=5000, flush=5))
        for _ in range(30):
            vanishing = Channel(server, kernel_id, busy=True, protocol=V1)
            wait_until(vanishing.receive, "it reads")
            vanishing.vanish()
        (server.root_dir / "enough").touch()
        printed = ""
        while "all" not in printed:
            message = channel.receive()
            printed = message["content"].get("text", "") if message is not None else ""
