"""The websockets to a gateway, each of which serves one client of a kernel."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from jupyter_server.gateway.connections import GatewayWebSocketConnection

_RETRIES_THAT_COUNT = 1
"""How often the time between two attempts is doubled. It is then two to three seconds."""


class GatewayConnection(GatewayWebSocketConnection):
    """Stays connected to the gateway for as long as its client is there, and no longer.

    The class above gives up after half a minute. Its client would stay connected to nothing. It
    also cancels a connection that is not open yet, which keeps it from opening only as far as
    this server can see. The gateway would count a client for ever, and the kernel would not be
    culled. Of several connections of one client, a gateway keeps the messages of the one that ends
    last, for when the client comes back. That has to be the one that the client uses.
    """

    async def connect(self) -> None:
        """Connect to the gateway, unless the client has gone in the meantime."""
        if self.disconnected:
            return
        self.retry = min(self.retry, _RETRIES_THAT_COUNT)
        await super().connect()  # type: ignore[no-untyped-call]
        assert self.ws_future is not None
        self.ws_future.add_done_callback(self._connected)

    def disconnect(self) -> None:  # type: ignore[override]  # as in the class above
        """Close the connection now, or as soon as it is open."""
        self.disconnected = True
        if self.ws is not None:
            self.ws.close()

    def _connected(self, opening: Any) -> None:
        error = opening.exception()
        if error is None and self.disconnected:
            opening.result().close()
        elif getattr(error, "code", None) == HTTPStatus.NOT_FOUND and not self.disconnected:
            # The client will ask for its kernel, and learn that it is gone.
            self.websocket_handler.close()
