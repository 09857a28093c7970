"""Servers whose gateway fails for some time: what clients see meanwhile, and what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import websocket

from support.channel import Channel
from support.gateway import Gateway
from support.gateway_proxy import Fault, GatewayProxy, gateway_proxy
from support.gateway_servers import ids, start_behind
from support.server import Server, StartServer
from support.waiting import wait_until

LISTED_WITHIN = 2.0
"""Seconds that a list may take, whatever the gateway does."""
DELETED_WITHIN = 8.0
"""Seconds that a deletion may take, whatever the gateway does."""
RIGHT_AFTER = 5.0
"""Seconds after a fault until everything is right again."""


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[GatewayProxy]:
    """A proxy in front of the gateway."""
    with gateway_proxy(gateway.port) as proxy:
        yield proxy


def timed(request: Callable[[], Any], limit: float) -> Any:
    """Return the answer to a request, which may take only so many seconds."""
    began = time.monotonic()
    answer = request()
    took = time.monotonic() - began
    assert took < limit, f"took {took:.1f} s"
    return answer


def states(server: Server) -> dict[str, str]:
    """Return the state of the kernel of each listed session, in time."""
    models = timed(server.list_sessions, LISTED_WITHIN)
    return {each["id"]: each["kernel"]["execution_state"] for each in models}


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("gateway", ["kernel"], indirect=True)
def test_everything_is_right_soon_after_a_fault_of_the_gateway(
    start_server: StartServer,
    gateway: Gateway,
    proxy: GatewayProxy,
    sqlite_url: str,
    fault: Fault,
) -> None:
    servers = [start_behind(start_server, proxy, sqlite_url) for _ in range(2)]
    one, other = servers
    kept, ended, deleted, shut_down = (one.create(f"{name}.ipynb") for name in "abcd")
    assert ids(other) == ids(one)

    proxy.begin(fault)
    gateway.request("DELETE", f"/api/kernels/{ended['kernel']['id']}")
    unknown = {each["id"]: "unknown" for each in (kept, ended, deleted, shut_down)}
    for server in servers:
        wait_until(lambda server=server: states(server) == unknown, "nothing is known")
        assert states(server) == unknown
    with ThreadPoolExecutor(2) as pool:
        kernel = f"/api/kernels/{shut_down['kernel']['id']}"
        replies = [
            pool.submit(timed, lambda: other.delete(deleted["id"]), DELETED_WITHIN),
            pool.submit(timed, lambda: one.request("DELETE", kernel), DELETED_WITHIN),
        ]
        wait_until(
            lambda: all(states(each).keys() == {kept["id"], ended["id"]} for each in servers),
            "the sessions are gone for all servers",
        )
        assert [reply.result().status for reply in replies] == [204, 204]
    assert len(gateway.kernel_processes()) == 3

    proxy.end()
    for server in servers:
        wait_until(
            lambda server=server: states(server) == {kept["id"]: "starting"},
            "the state is known, and the session without a kernel has ended",
            timeout=RIGHT_AFTER,
        )
    gateway.wait_for_kernels(1, timeout=RIGHT_AFTER)
    assert one.create("a.ipynb")["id"] == kept["id"]


IMPATIENT = {"gateway_retry_max": 2, "gateway_retry_interval": 0.1}
"""Lets jupyter_server's own connection to a gateway give up after less than a second."""


@pytest.mark.parametrize("host_name", ["newest", "oldest"])
def test_a_client_is_connected_again_soon_after_the_gateway_is_back(
    start_server: StartServer,
    gateway: Gateway,
    proxy: GatewayProxy,
    sqlite_url: str,
    host_name: str,
) -> None:
    config = {"GatewayClient": IMPATIENT, "ServerApp": {"log_level": "DEBUG"}}
    server = start_behind(start_server, proxy, sqlite_url, host_name, **config)
    kept, ended = (server.create(f"{name}.ipynb", "python3") for name in "ab")
    with (
        Channel(server, kept["kernel"]["id"]) as channel,
        Channel(server, ended["kernel"]["id"]) as lost,
    ):
        assert channel.execute("x = 42; x") == "42"
        proxy.begin(Fault.REFUSES)
        proxy.cut()
        gateway.request("DELETE", f"/api/kernels/{ended['kernel']['id']}")
        sent = channel.start("x")
        while attempts(server, kept) < 4:
            channel.answer_pings()
        proxy.end()
        began = time.monotonic()
        assert channel.wait_for("execute_result", sent)["content"]["data"]["text/plain"] == "42"
        assert time.monotonic() - began < RIGHT_AFTER
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            lost.wait_for_kernel()
    assert server.request("GET", f"/api/kernels/{ended['kernel']['id']}").status == 404


def attempts(server: Server, model: dict[str, Any]) -> int:
    """Return how often the server has tried to connect a client to its kernel again."""
    # A line begins with its level, and repeated attempts have a low one.
    return len(server.log_lines("D", f"Connecting to ws:.*{model['kernel']['id']}"))
