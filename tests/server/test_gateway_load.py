"""Many clients that list the sessions of a gateway's kernels at several servers."""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from support.gateway import Gateway
from support.gateway_proxy import Request, gateway_proxy
from support.gateway_servers import start_behind
from support.server import Server, StartServer

KERNELS = int(os.environ.get("GATEWAY_KERNELS", "12"))
SECONDS = float(os.environ.get("GATEWAY_SECONDS", "6"))
POLLERS = 20
SERVERS = 3
MAX_AGE = 1.0
"""The default of models_max_age."""
HEADER = "X-Server"

log = logging.getLogger(__name__)


@dataclass
class Polls:
    """What one client has seen."""

    took: list[float] = field(default_factory=list)
    """The seconds that each list took."""
    unknown: int = 0
    """How many lists had kernels of unknown state."""


def poll(server: Server, deadline: float) -> Polls:
    """List the sessions again and again."""
    polls = Polls()
    with server.connect() as connection:
        while (began := time.monotonic()) < deadline:
            reply = server.request("GET", "/api/sessions", connection=connection)
            polls.took.append(time.monotonic() - began)
            models = reply.json()
            assert len(models) == KERNELS
            polls.unknown += "unknown" in {each["kernel"]["execution_state"] for each in models}
    return polls


def poll_all(servers: list[Server]) -> None:
    deadline = time.monotonic() + SECONDS
    with ThreadPoolExecutor(POLLERS) as pool:
        futures = [
            pool.submit(poll, servers[number % SERVERS], deadline) for number in range(POLLERS)
        ]
        polls = [future.result() for future in futures]
    took = [each for client in polls for each in client.took]
    log.info(
        "%d lists of %d sessions in %.0f s: median %.3f s, longest %.3f s; %d with unknown states",
        len(took),
        KERNELS,
        SECONDS,
        statistics.median(took),
        max(took),
        sum(client.unknown for client in polls),
    )


def requests_of(server: int, requests: list[Request]) -> list[Request]:
    """Return what the server has asked the gateway."""
    return [each for each in requests if f"{HEADER}: {server}" in each.head]


@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_a_gateway_is_asked_once_a_second_however_many_clients_list_sessions(
    start_server: StartServer, gateway: Gateway, sqlite_url: str
) -> None:
    check_requests(start_server, gateway, sqlite_url, for_each_round=1)


def test_a_gateway_that_lists_nothing_is_asked_for_few_kernels_a_second(
    start_server: StartServer, silent_gateway: Gateway, sqlite_url: str
) -> None:
    check_requests(start_server, silent_gateway, sqlite_url, for_each_round=min(KERNELS, 20))


def check_requests(
    start_server: StartServer, gateway: Gateway, sqlite_url: str, *, for_each_round: int
) -> None:
    with gateway_proxy(gateway.port) as proxy:
        servers = [
            start_behind(
                start_server,
                proxy,
                sqlite_url,
                GatewayClient={"headers": json.dumps({HEADER: str(number)})},
            )
            for number in range(SERVERS)
        ]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: servers[n % SERVERS].create(f"{n}.ipynb"), range(KERNELS)))
        time.sleep(MAX_AGE)  # Until lists that lack some of the new kernels are too old.
        for server in servers:
            server.list_sessions()
        proxy.requests.clear()
        began = time.monotonic()
        poll_all(servers)
        # The answer to a request is used for so long, and then comes the next request.
        rounds = (time.monotonic() - began) / MAX_AGE + 1
        log.info("%d requests in %.0f rounds", len(proxy.requests), rounds * SERVERS)
        for number in range(SERVERS):
            asked = requests_of(number, proxy.requests)
            assert {each.method for each in asked} == {"GET"}
            # Without lists, the server tries once a minute whether there are any by now.
            assert 1 <= len(asked) <= rounds * for_each_round + 1
