"""A server that is killed at random: each client gets each line once, and its reply."""

from __future__ import annotations

import os
import random
import time
from functools import partial

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
        *lines, last = each.printed().split("\n")[:-1]
        assert lines == [str(number) for number in range(1, len(lines) + 1)]
        assert last == f"all {len(lines)}"
    assert [reply["status"] for reply in runs.replies()] == ["ok"]
    assert [watches.replies(), slow.replies()] == [[], []]


def has_all(reader: Reader) -> bool:
    return "all" in reader.printed()
