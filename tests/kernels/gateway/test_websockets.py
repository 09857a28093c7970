"""A connection of a client to a gateway that fails on purpose."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from tornado.websocket import WebSocketHandler

from nbsessions.kernels.gateway.websockets import GatewayConnection
from support.fake_gateway import FakeGateway, fake_gateway, make_gateway_provider, make_started


async def make_connection(gateway: FakeGateway, folder: Path) -> GatewayConnection:
    """Return a connection whose client has just come."""
    manager = make_gateway_provider(folder)._kernels
    kernel_id = make_started(gateway)
    await manager.learn(kernel_id)
    client = create_autospec(WebSocketHandler, instance=True, selected_subprotocol=None)
    return GatewayConnection(parent=manager.get_kernel(kernel_id), websocket_handler=client)


@pytest.mark.gen_test
@pytest.mark.parametrize("flows", [True, False])
async def test_what_a_client_sends_before_it_leaves_is_passed_on_once(
    tmp_path: Path, flows: bool
) -> None:
    async with fake_gateway() as gateway:
        connection = await make_connection(gateway, tmp_path)
        if not flows:
            gateway.flows.clear()
        await connection.connect()
        connection.handle_incoming_message("one")
        connection.handle_incoming_message(b"two")
        connection.disconnect()
        gateway.flows.set()
        assert [await gateway.messages.get() for _ in range(3)] == ["one", b"two", None]
        await asyncio.wait_for(connection._serving, 5)


@pytest.mark.gen_test
async def test_a_client_that_sends_nothing_and_leaves_is_no_client_of_the_gateway(
    tmp_path: Path,
) -> None:
    async with fake_gateway() as gateway:
        connection = await make_connection(gateway, tmp_path)
        await connection.connect()
        connection.disconnect()
        await asyncio.wait_for(connection._serving, 5)

        late = await make_connection(gateway, tmp_path)
        late.disconnect()
        await late.connect()
        assert gateway.messages.empty()
