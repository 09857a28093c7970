"""What connects a client's websocket to a kernel of the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_server.gateway.connections import GatewayWebSocketConnection

_Stock: Any = GatewayWebSocketConnection


class GatewayConnection(_Stock):  # type: ignore[misc]
    """Leaves no websocket at the gateway when the client has gone.

    The class above cannot cancel a connection that is being made, and forgets it. The gateway
    would count it until the server ends. Of several connections of one client, a gateway keeps the
    messages of the one that ends last, for when the client comes back. That has to be the one that
    the client uses.
    """

    def disconnect(self) -> None:
        """Close the websocket to the gateway, as soon as it is open."""
        if self.ws is None and self.ws_future is not None:
            self.disconnected = True
            self.ws_future.add_done_callback(_close)
        else:
            super().disconnect()


def _close(connecting: asyncio.Future[Any]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
