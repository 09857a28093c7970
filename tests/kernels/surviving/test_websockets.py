"""The connections of clients, apart from a server. Most of their tests are those of servers."""

from __future__ import annotations

import asyncio

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from nbsessions.kernels.surviving import websockets
from nbsessions.kernels.surviving.websockets import SurvivingConnection


def test_a_connection_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr(
        ZMQChannelsWebsocketConnection, "disconnect", lambda self: ended.append(self)
    )
    connection = SurvivingConnection()
    # A server that stops ends all connections, and then each websocket is closed.
    connection.disconnect()
    connection.disconnect()
    assert ended == [connection]


@pytest.mark.gen_test
async def test_replies_are_not_intercepted_before_somebody_receives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    intercepting = asyncio.Event()

    class Reconnector:
        def __init__(self, *_: object) -> None:
            pass

        async def reconnect(self, _: object) -> None:
            intercepting.set()

    monkeypatch.setattr(websockets, "ClientReconnector", Reconnector)
    monkeypatch.setattr(websockets, "KernelInfoRequests", lambda *_, **__: None)
    monkeypatch.setattr(SurvivingConnection, "kernel_manager", None)
    connection = SurvivingConnection()
    connection._caught_up = asyncio.Event()
    connected = asyncio.get_running_loop().create_future()
    making_heard = asyncio.create_task(connection._make_heard(connected))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(intercepting.wait(), 0.1)
    connected.set_result(None)
    await asyncio.wait_for(intercepting.wait(), 30)
    connection._caught_up.set()
    await making_heard
