"""The websockets of clients to kernels at a gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.channel import V1, Channel
from support.gateway import Gateway, running_gateway
from support.gateway_servers import start_behind
from support.server import Server, StartServer
from support.waiting import wait_until

ECHO = """
def opened(comm, message):
    comm.on_msg(lambda each: comm.send(each["content"]["data"], buffers=each["buffers"][::-1]))

get_ipython().kernel.comm_manager.register_target("echo", opened)
"""
SIZE = 12_000_000
"""Characters of a result. Tornado's websockets take 10 MiB if they are not told otherwise."""

LONGER_THAN_A_PAUSE = 4.0
"""Seconds after which a server would have tried to connect again."""


@pytest.fixture(params=["kernel", "enterprise", "old protocol"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    options = ["--ZMQChannelsWebsocketConnection.kernel_ws_protocol="]
    kind = "kernel" if request.param == "old protocol" else request.param
    if kind == request.param:
        options.clear()
    with running_gateway(kind, tmp_path / "gateway", options=options) as gateway:
        yield gateway


@pytest.fixture
def server(start_server: StartServer, gateway: Gateway, sqlite_url: str) -> Server:
    return start_behind(start_server, gateway, sqlite_url)


@pytest.mark.parametrize("protocol", [V1, None])
def test_clients_get_what_they_would_from_a_local_kernel(
    server: Server, gateway: Gateway, protocol: str | None
) -> None:
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    with Channel(server, kernel_id, protocol=protocol) as channel:
        assert channel.execute(f"len('ä' * {SIZE})") == str(SIZE)
        assert len(channel.execute(f"'ä' * {SIZE}")) == SIZE + 2

        channel.wait_for("execute_reply", channel.start(ECHO))
        comm = {"comm_id": "a-comm", "target_name": "echo", "data": {}}
        channel.send("comm_open", comm)
        parts = [b"\xff\x00", b"", b"the last"]
        sent = channel.send("comm_msg", {**comm, "data": {"a": "ä"}}, buffers=parts)
        received = channel.wait_for("comm_msg", sent)
        assert received["content"]["data"] == {"a": "ä"}
        assert [bytes(part) for part in received["buffers"]] == parts[::-1]


@pytest.mark.parametrize("gateway", ["kernel", "enterprise"], indirect=True)
def test_a_client_that_is_not_heard_does_not_take_the_place_of_its_next_connection(
    start_server: StartServer, server: Server, gateway: Gateway, sqlite_url: str
) -> None:
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    other = start_behind(start_server, gateway, sqlite_url)
    # Nobody reads what arrives for the first one, so that no ping is answered.
    with (
        Channel(server, kernel_id) as lost,
        Channel(other, kernel_id, lost.session_id) as channel,
    ):
        wait_until(lambda: server.log_lines("W", "Lost the connection"), "it is replaced")
        time.sleep(LONGER_THAN_A_PAUSE)
        assert channel.execute("6 * 7") == "42"
    for each in (server, other):
        assert len(each.log_lines("I", "Connecting to ws:")) == 1


@pytest.mark.parametrize("gateway", ["old protocol"], indirect=True)
def test_messages_that_make_no_sense_are_ignored(server: Server, gateway: Gateway) -> None:
    kernel_id = server.create("a.ipynb", "python3")["kernel"]["id"]
    with Channel(server, kernel_id, protocol=V1) as channel:
        nonsense = [b"", b"\xff" * 40, (2).to_bytes(8, "little"), "text", b"\x00" * 64]
        for frame in nonsense:
            channel.send_frame(frame)
        assert channel.execute("6 * 7") == "42"
    assert len(server.log_lines("W", "Ignoring a message")) == len(nonsense)
