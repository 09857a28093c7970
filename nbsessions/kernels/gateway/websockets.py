"""The websockets to a gateway, each of which serves one client of a kernel."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from jupyter_client.jsonutil import json_default
from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)
from jupyter_server.utils import url_escape, url_path_join
from tornado.httpclient import HTTPRequest
from tornado.httputil import url_concat
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect
from traitlets import Unicode

_MAX_MESSAGE_SIZE = 2**31 - 1
"""Bytes of a kernel's message. Messages of local kernels have no limit either."""

_PARTS = ("header", "parent_header", "metadata", "content")


class GatewayConnection(GatewayWebSocketConnection):
    """Passes messages between a client and the gateway for as long as the client is there.

    While the gateway is away, the client stays connected, and what it sends waits. The class above
    gives up after half a minute and drops what is sent until then.

    Both sides use the protocol that the client prefers. The class above refuses all but the
    oldest, and a page then tries again, perhaps through another server. If several connections
    with one session id are open at the same moment, a gateway may lose replies.
    """

    kernel_ws_protocol = Unicode(
        None,
        allow_none=True,
        config=True,
        help="""The protocol of the websockets to clients. None is the one that the client prefers,
        and an empty string is the oldest one.""",
    )

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._protocol: str | None = None
        self._unsent: deque[str | bytes] = deque()
        self._is_understood = True  # by the gateway
        self._heard = asyncio.Event()  # the client

    async def connect(self) -> None:
        """Begin to pass messages. Does not wait for the gateway."""
        if self.disconnected:
            return
        self._protocol = self.websocket_handler.selected_subprotocol
        on_pong = self.websocket_handler.on_pong

        def hear(data: bytes) -> None:
            self._heard.set()
            on_pong(data)

        self.websocket_handler.on_pong = hear  # type: ignore[method-assign]
        self._serving = asyncio.create_task(self._serve())

    def disconnect(self) -> None:  # type: ignore[override]  # as in the class above
        """Close the connection now, or as soon as it is open."""
        # Tornado cannot cancel an attempt to connect. The gateway would count a client for ever,
        # and the kernel would not be culled.
        self.disconnected = True
        self._heard.set()
        if self.ws is not None:
            self.ws.close()

    def handle_incoming_message(self, message: str | bytes) -> None:
        """Send a message of the client to the gateway, as soon as it is connected."""
        self._heard.set()
        self._unsent.append(message)
        self._send()

    async def _serve(self) -> None:
        """Keep the client connected to the gateway until it leaves or its kernel is gone."""
        # What the client has sent before it left is passed on.
        while self._unsent or not self.disconnected:
            try:
                self.ws = await self._open()
                self.retry = 0
                await self._pass_on(self.ws)
            except Exception as error:
                if getattr(error, "code", None) == HTTPStatus.NOT_FOUND:
                    # The client will ask for its kernel, and learn that it is gone.
                    self.websocket_handler.close()
                    return
                self._note("No connection to kernel %s: %s", self.kernel_id, error)
                self.retry += 1
            if self.disconnected:
                return
            await self._pause()

    async def _open(self) -> WebSocketClientConnection:
        client = GatewayClient.instance()
        address = url_path_join(
            client.ws_url or "", client.kernels_endpoint, url_escape(self.kernel_id), "channels"
        )
        self._note("Connecting to %s", address)
        # The gateway keeps what the kernel says while the client with this id is away.
        address = url_concat(address, {"session_id": self.session_id})
        return await websocket_connect(
            HTTPRequest(address, **client.load_connection_args()),  # type: ignore[no-untyped-call]
            subprotocols=[self._protocol] if self._protocol else None,
            max_message_size=_MAX_MESSAGE_SIZE,
        )

    def _note(self, message: str, *details: object) -> None:
        """Log what happens at each attempt to connect, at a low level if others have failed."""
        self.log.log(logging.DEBUG if self.retry else logging.INFO, message, *details)

    async def _pass_on(self, gateway: WebSocketClientConnection) -> None:
        """Pass messages in both directions until one side closes its connection."""
        self._is_understood = gateway.selected_subprotocol == self._protocol
        self._send()
        if self.disconnected:
            gateway.close()
            return
        try:
            while (frame := await gateway.read_message()) is not None:
                message = frame if self._is_understood else self._translated(_to_v1, frame)
                if message is not None:
                    await self.websocket_handler.write_message(message, isinstance(message, bytes))
        except WebSocketClosedError:
            gateway.close()  # the client has left
        if not self.disconnected:
            self.log.warning("Lost the connection to kernel %s", self.kernel_id)

    def _send(self) -> None:
        """Send what the client has sent, unless the gateway is away."""
        while self._unsent and self.ws is not None:
            frame = self._unsent[0]
            message = frame if self._is_understood else self._translated(_from_v1, frame)
            if message is not None:
                try:
                    sent = self.ws.write_message(message, isinstance(message, bytes))
                except WebSocketClosedError:
                    return
                # If that fails later, it is not sent again: a cell might run twice.
                sent.add_done_callback(lambda sent: sent.cancelled() or sent.exception())
            self._unsent.popleft()

    def _translated(self, translate: Callable[[Any], str | bytes], frame: Any) -> Any:
        """Return the message in the other protocol, or None if it makes no sense."""
        try:
            return translate(frame)
        except (ValueError, LookupError, TypeError, struct.error) as error:
            self.log.warning("Ignoring a message of kernel %s: %r", self.kernel_id, error)
            return None

    async def _pause(self) -> None:
        """Wait until it is time to try again, and the client has shown that it is there.

        A client that has lost its network may have reached the gateway again through another
        server, long before this one knows. The gateway then closes the older connection. If it was
        opened again, it would take the place of the client's new one.
        """
        self._heard.clear()
        with suppress(WebSocketClosedError):
            self.websocket_handler.ping()
        client = GatewayClient.instance()
        seconds = client.gateway_retry_interval * min(self.retry + 1, 2)
        jitter = random.uniform(0.1, 1.0)
        await asyncio.sleep(min(seconds, client.gateway_retry_interval_max) + jitter)
        await self._heard.wait()


def _from_v1(frame: bytes) -> str | bytes:
    """Return a message of the protocol v1.kernel.websocket.jupyter.org in the oldest one."""
    if int.from_bytes(frame[:8], "little") > len(frame):
        raise ValueError("more parts than bytes")
    channel, parts = deserialize_msg_from_ws_v1(frame)  # type: ignore[no-untyped-call]
    named = zip(_PARTS, parts[: len(_PARTS)], strict=True)
    message = {key: json.loads(part) for key, part in named}
    message.update(channel=channel, buffers=parts[len(_PARTS) :])
    if not message["buffers"]:
        return json.dumps(message)
    binary: bytes = serialize_binary_message(message)  # type: ignore[no-untyped-call]
    return binary


def _to_v1(frame: str | bytes) -> bytes:
    """Return a message of the oldest protocol in v1.kernel.websocket.jupyter.org."""
    message = (
        json.loads(frame) if isinstance(frame, str) else deserialize_binary_message(frame)  # type: ignore[no-untyped-call]
    )
    parts = [json.dumps(message[key], default=json_default).encode() for key in _PARTS]
    parts += message.get("buffers") or []
    binary: bytes = serialize_msg_to_ws_v1(parts, message["channel"])  # type: ignore[no-untyped-call]
    return binary
