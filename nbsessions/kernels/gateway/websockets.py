"""The websockets to a gateway, each of which serves one client of a kernel."""

from __future__ import annotations

from typing import Any

from jupyter_server.gateway.connections import GatewayWebSocketConnection


class GatewayConnection(GatewayWebSocketConnection):
    """Leaves no websocket open at the gateway when its client has gone.

    The class above cancels a connection that is not open yet, which keeps it from opening only
    as far as this server can see. The gateway would count a client for ever, and the kernel would
    not be culled. Of several connections of one client, a gateway keeps the messages of the one
    that ends last, for when the client comes back. That has to be the one that the client uses.
    """

    async def connect(self) -> None:
        """Connect to the gateway, unless the client has gone in the meantime."""
        if self.disconnected:
            return
        await super().connect()  # type: ignore[no-untyped-call]
        assert self.ws_future is not None
        self.ws_future.add_done_callback(self._close_if_unused)

    def disconnect(self) -> None:  # type: ignore[override]  # as in the class above
        """Close the connection now, or as soon as it is open."""
        self.disconnected = True
        if self.ws is not None:
            self.ws.close()

    def _close_if_unused(self, opened: Any) -> None:
        if self.disconnected and opened.exception() is None:
            opened.result().close()
