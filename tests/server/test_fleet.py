"""Fleets that are started from the files in docs/deploy/fleet.

``FLEET_SECONDS`` and ``FLEET_SEED`` in the environment set how long servers are killed, and which.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import websocket

from support.fleet import Fleet, running_fleet
from support.fleet_traffic import FleetClient, Tally
from support.rest import cookie_header
from support.server import Server, StartServer
from support.waiting import wait_until

SECONDS = float(os.environ.get("FLEET_SECONDS", "20"))
SEED = int(os.environ.get("FLEET_SEED", "1"))
CLIENTS = 4
KILL_INTERVAL = 3.0

log = logging.getLogger(__name__)

StartFleet = Callable[..., Fleet]


@pytest.fixture
def start_fleet(tmp_path: Path, start_server: StartServer) -> Iterator[StartFleet]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(
            running_fleet(tmp_path / "fleet", start_server, **options)
        )


def test_nothing_is_lost_while_servers_are_killed(
    start_fleet: StartFleet, record_testsuite_property: Callable[[str, object], None]
) -> None:
    fleet = start_fleet()
    tally = Tally()
    clients = [FleetClient(fleet.balancer, number, SEED, tally) for number in range(CLIENTS)]
    kills = use_while_killing(fleet.servers, clients, tally)
    figures = dict(sorted(tally.counts.items()))
    log.info("%d kills, longest wait %.1f s: %s", kills, tally.longest_wait, figures)
    record_testsuite_property("kills", kills)
    record_testsuite_property("answers", figures)

    # A server that answers is able to do what it is asked for.
    assert not [each for each in figures if each.endswith("by the server")]
    expected = {
        (session_id, fields["path"], fields["kernel_id"])
        for client in clients
        for session_id, fields in client.sessions.items()
    }
    assert fleet.listed() == [expected] * len(fleet.servers)
    # What killed servers had begun is undone.
    fleet.gateway.wait_for_kernels(len(expected))
    for client in clients:
        client.delete_all()
    assert fleet.listed() == [set()] * len(fleet.servers)
    fleet.gateway.wait_for_kernels(0)
    wait_until(lambda: open_intents(fleet) == 0, "no start or stop is open")


def use_while_killing(servers: list[Server], clients: list[FleetClient], tally: Tally) -> int:
    """Let the clients work, and kill a server every few seconds. Return how often that was."""
    dice = random.Random(SEED)
    deadline = time.monotonic() + SECONDS
    kills = 0
    with ThreadPoolExecutor(len(clients)) as pool:
        jobs = [pool.submit(client.work, deadline) for client in clients]
        while time.monotonic() < deadline and not tally.failed.is_set():
            next_kill = time.monotonic() + KILL_INTERVAL
            server = dice.choice(servers)
            server.kill()
            kills += 1
            server.start(again=True)
            tally.failed.wait(next_kill - time.monotonic())
        for job in jobs:
            job.result()
    return kills


def open_intents(fleet: Fleet) -> int:
    """Return how many starts and stops are recorded that have not ended."""
    with psycopg.connect(fleet.schema) as connection:
        query = "SELECT count(*) FROM nbsessions_intent WHERE verb <> 'ended'"
        row = connection.execute(query).fetchone()
    assert row is not None
    count: int = row[0]
    return count


@pytest.mark.parametrize(
    ("balancer", "gateway_kind"), [("nginx", "enterprise"), ("traefik", "kernel")]
)
def test_a_session_outlives_each_server_in_turn(
    start_fleet: StartFleet, balancer: str, gateway_kind: str
) -> None:
    fleet = start_fleet(balancer=balancer, gateway_kind=gateway_kind)
    model = fleet.balancer.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    assert fleet.balancer.execute(kernel_id, "x = 42; x") == "42"
    for server in fleet.servers:
        server.kill()
        assert fleet.balancer.execute(kernel_id, "x") == "42"
        again = fleet.balancer.create("a.ipynb", "python3")
        assert (again["id"], again["kernel"]["id"]) == (model["id"], kernel_id)
        server.start(again=True)
        # For two seconds, nginx takes a server that has failed for gone.
        wait_until(lambda: asks_all_servers(fleet), "the balancer asks all servers", timeout=5)
    assert fleet.balancer.delete(model["id"]).status == 204
    assert fleet.listed() == [set()] * len(fleet.servers)
    fleet.gateway.wait_for_kernels(0)


def asks_all_servers(fleet: Fleet) -> bool:
    replies = [fleet.balancer.request("GET", "/api/status") for _ in range(2 * len(fleet.servers))]
    return len({reply.json()["started"] for reply in replies}) == len(fleet.servers)


def test_who_has_signed_in_once_is_known_to_every_server(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    cookies = fleet.balancer.log_in()
    headers = {
        "Host": f"127.0.0.1:{fleet.balancer.port}",
        "Cookie": cookie_header(cookies),
        "X-XSRFToken": cookies["_xsrf"],
    }
    for number, server in enumerate(fleet.servers):
        body = {"path": f"{number}.ipynb", "type": "notebook", "kernel": {"name": "light"}}
        assert server.post(body, headers=headers, with_token=False).status == 201
    assert len(fleet.balancer.list_sessions()) == len(fleet.servers)


def test_while_all_servers_are_away_clients_are_told_to_wait(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    model = fleet.balancer.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    for server in fleet.servers:
        server.kill()
    for method, path in {
        "GET": f"/api/kernels/{kernel_id}",
        "DELETE": f"/api/sessions/{model['id']}",
    }.items():
        reply = fleet.balancer.request(method, path)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        fleet.balancer.execute(kernel_id, "6 * 7")
    assert refused.value.status_code == 503
    fleet.servers[0].start(again=True)

    def is_back() -> bool:
        return fleet.balancer.request("GET", f"/api/kernels/{kernel_id}").status == 200

    wait_until(is_back, "the first server is asked again", timeout=5)
    assert fleet.balancer.execute(kernel_id, "6 * 7") == "42"
