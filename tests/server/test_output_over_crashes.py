"""A server that is killed at random: each client gets each line once, and its reply."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from functools import partial

from support.channel import V1, Channel
from support.printing import COUNTING, Reader, everyone_reading, reading
from support.server import StartServer
from support.waiting import wait_until

ROUNDS = int(os.environ.get("OUTPUT_ROUNDS", "5"))
MORE_THAN_IS_PRINTED = 1_000_000_000
"""Bytes. The slow client may be that far behind."""
UNLIMITED = {"ZMQChannelsWebsocketConnection": {"limit_rate": False}}


def test_every_line_reaches_every_client_once(start_server: StartServer) -> None:
    config = {**UNLIMITED, "SurvivingKernels": {"output_limit": MORE_THAN_IS_PRINTED}}
    server = start_server(config=config, measured=False)
    with everyone_reading(server, flush=25, pause=0.002):
        random.seed(os.environ.get("OUTPUT_SEED"))
        for _ in range(ROUNDS):
            time.sleep(random.uniform(0.0, 2.0))
            server.kill()
            time.sleep(random.choice([0.0, random.uniform(0.0, 5.0)]))
            server.start(again=True)


def have_connected(readers: Sequence[Reader], times: int) -> bool:
    return all(each.connections >= times for each in readers)


def test_a_server_that_is_restarted_under_its_clients_ends_in_time(
    start_server: StartServer,
) -> None:
    server = start_server(config={**UNLIMITED, "SurvivingKernels": {"keep_kernels": "restart"}})
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    readers = [Reader(server, kernel_id) for _ in range(8)]
    readers[0].request(COUNTING.format(rate=1000, flush=25))
    with reading(*readers):
        # A request that a server has got in its last moment may be lost.
        wait_until(readers[0].printed, "the cell runs")
        for number in range(4):
            wait_until(partial(have_connected, readers, number + 1), "all are back")
            assert server.stop() == 0
            server.start(again=True)
        (server.root_dir / "enough").touch()
        for each in readers:
            wait_until(each.has_all, f"{each.name} has read all", timeout=120)
    readers[0].check_lines()


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
