"""Runs code in a kernel over the server's websocket, as a notebook does."""

from __future__ import annotations

import json
import socket
import struct
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import websocket
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

V1 = "v1.kernel.websocket.jupyter.org"
"""The protocol of pages. Without a protocol, messages are sent in the oldest one."""

_PARTS = ("header", "parent_header", "metadata", "content")
_TIMEOUT = 60.0
_RECEIVE_TIMEOUT = 0.5


class Address(Protocol):
    """Where a server is."""

    port: int
    token: str

    def url_path(self, path: str) -> str:
        """Return the path below the base URL."""


class Channel:
    """A websocket to a running kernel.

    A client that reconnects passes its previous ``session_id``. With ``busy``, the channel does
    not wait for the kernel to answer first. Fails if the server does not speak the ``protocol``.
    """

    def __init__(
        self,
        server: Address,
        kernel_id: str,
        session_id: str | None = None,
        *,
        busy: bool = False,
        protocol: str | None = None,
    ) -> None:
        self.session_id = session_id or str(uuid.uuid4())
        self._busy = busy
        path = server.url_path(f"/api/kernels/{kernel_id}/channels?session_id={self.session_id}")
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}{path}",
            header=[f"Authorization: token {server.token}"],
            timeout=_TIMEOUT,
            subprotocols=[protocol] if protocol else None,
            skip_utf8_validation=True,  # it takes seconds for a large message
        )
        assert self._socket.subprotocol == protocol
        self._socket.settimeout(_RECEIVE_TIMEOUT)
        self._deadline = time.monotonic() + _TIMEOUT

    def __enter__(self) -> Channel:
        if self._busy:
            return self
        try:
            self.wait_for_kernel()
        except BaseException:
            self._socket.close()
            raise
        return self

    def wait_for_kernel(self) -> None:
        """Wait until the kernel answers."""
        # Until the kernel is up, the server may drop requests. It may also drop the results of
        # requests that it has forwarded, because they arrive on a separate socket (iopub).
        message = None
        while message is None or message["channel"] != "iopub":
            if message is None:
                message_id = self.send("kernel_info_request", {})
            message = self._reply(message_id)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def answer_pings(self) -> None:
        """Read for a moment what arrives. A client answers pings only while it reads."""
        self._reply("")

    def close(self) -> None:
        """Close the websocket."""
        self._socket.close()

    def vanish(self) -> None:
        """End the connection without a word, as a machine does that is switched off."""
        linger = struct.pack("ii", 1, 0)
        self._socket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.shutdown()

    def say_goodbye(self) -> None:
        """Ask the server to close the websocket. What it has sent can still be received."""
        self._socket.send_close()

    def execute(self, code: str) -> str:
        """Run code and return its result as plain text."""
        message = self.wait_for("execute_result", self.start(code))
        result: str = message["content"]["data"]["text/plain"]
        return result

    def print(self, code: str) -> str:
        """Run code that prints one line and return it."""
        text: str = self.wait_for("stream", self.start(code))["content"]["text"]
        return text.strip()

    def start(self, code: str) -> str:
        """Start running code and return the id of the request."""
        return self.send("execute_request", {"code": code, "silent": False, "allow_stdin": True})

    def answer(self, text: str, message_id: str) -> None:
        """Answer the ``input()`` call of a request's code."""
        self.send("input_reply", {"value": text}, {"msg_id": message_id}, channel="stdin")

    def wait_for(self, message_type: str, message_id: str) -> dict[str, Any]:
        """Return the next message of this type that belongs to the request. Fails on an error."""
        while True:
            message = self._reply(message_id)
            if message is not None and message["msg_type"] == message_type:
                return message
            assert message is None or message["msg_type"] != "error", message

    def wait_for_each(
        self, types: Collection[str], message_id: str, *, errors: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Return one message of each type, in whatever order they arrive.

        Fails on an error unless ``errors`` is true.
        """
        found: dict[str, dict[str, Any]] = {}
        while not found.keys() >= set(types):
            message = self._reply(message_id)
            if message is not None:
                assert errors or message["msg_type"] != "error", message
                found.setdefault(message["msg_type"], message)
        return found

    def wait_for_end(self, message_id: str) -> None:
        """Wait until the kernel is done with the request, whatever came of it."""
        while True:
            message = self._reply(message_id)
            if message is not None and message["content"].get("execution_state") == "idle":
                return

    def send(
        self,
        type: str,
        content: Mapping[str, object],
        parent: Mapping[str, object] | None = None,
        *,
        channel: str = "shell",
        buffers: Sequence[bytes] = (),
    ) -> str:
        """Send a message and return its id."""
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": type,
            "username": "",
            "session": self.session_id,
            "version": "5.3",
            "date": "2024-01-01T00:00:00Z",
        }
        message = {"header": header, "parent_header": parent or {}, "metadata": {}}
        message["content"] = content
        if self._socket.subprotocol:
            parts = [json.dumps(message[key]).encode() for key in _PARTS]
            self.send_frame(serialize_msg_to_ws_v1([*parts, *buffers], channel))
        else:
            message.update(channel=channel, buffers=buffers)
            self.send_frame(serialize_binary_message(message) if buffers else json.dumps(message))
        return message_id

    def send_frame(self, frame: str | bytes) -> None:
        """Send a message that is encoded."""
        self._socket.send(
            frame,
            websocket.ABNF.OPCODE_BINARY
            if isinstance(frame, bytes)
            else websocket.ABNF.OPCODE_TEXT,
        )

    def receive(self) -> dict[str, Any] | None:
        """Return the next message. None if none arrives in half a second."""
        try:
            frame = self._socket.recv()
        except websocket.WebSocketTimeoutException:
            return None
        if not frame:
            # A websocket that was closed by the other side does not close its socket.
            self._socket.shutdown()
            raise websocket.WebSocketConnectionClosedException
        return _decoded(frame, self._socket.subprotocol)

    def _reply(self, message_id: str) -> dict[str, Any] | None:
        """Return the next message that belongs to the request. None if none arrives in time."""
        while True:
            assert time.monotonic() < self._deadline, "the kernel did not answer"
            message = self.receive()
            if message is None:
                return None
            if (message["parent_header"] or {}).get("msg_id") == message_id:
                return message


def _decoded(frame: str | bytes, protocol: str | None) -> dict[str, Any]:
    message: dict[str, Any]
    if isinstance(frame, str):
        message = json.loads(frame)
    elif protocol is None:
        message = deserialize_binary_message(frame)
    else:
        channel, parts = deserialize_msg_from_ws_v1(frame)
        message = dict(zip(_PARTS, map(json.loads, parts[: len(_PARTS)]), strict=True))
        message.update(
            channel=channel, buffers=parts[len(_PARTS) :], msg_type=message["header"]["msg_type"]
        )
    return message
