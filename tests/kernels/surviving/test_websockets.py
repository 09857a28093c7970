"""The connections of clients, apart from a server. Most of their tests are those of servers."""

from __future__ import annotations

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

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
