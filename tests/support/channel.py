"""Runs code in a kernel over the server's websocket, as a notebook does."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Protocol

import websocket

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
    not wait for the kernel to answer first.
    """

    def __init__(
        self, server: Address, kernel_id: str, session_id: str | None = None, *, busy: bool = False
    ) -> None:
        self.session_id = session_id or str(uuid.uuid4())
        self._busy = busy
        path = server.url_path(f"/api/kernels/{kernel_id}/channels?session_id={self.session_id}")
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}{path}",
            header=[f"Authorization: token {server.token}"],
            timeout=_TIMEOUT,
        )
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
                message_id = self._send("kernel_info_request", {})
            message = self._reply(message_id)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def close(self) -> None:
        """Close the websocket."""
        self._socket.close()

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
        return self._send("execute_request", {"code": code, "silent": False, "allow_stdin": True})

    def answer(self, text: str, message_id: str) -> None:
        """Answer the ``input()`` call of a request's code."""
        self._send("input_reply", {"value": text}, {"msg_id": message_id}, channel="stdin")

    def wait_for(self, message_type: str, message_id: str) -> dict[str, Any]:
        """Return the next message of this type that belongs to the request. Fails on an error."""
        while True:
            message = self._reply(message_id)
            if message is not None and message["msg_type"] == message_type:
                return message
            assert message is None or message["msg_type"] != "error", message

    def wait_for_each(self, types: Collection[str], message_id: str) -> dict[str, dict[str, Any]]:
        """Return one message of each type, in whatever order they arrive."""
        found: dict[str, dict[str, Any]] = {}
        while not found.keys() >= set(types):
            message = self._reply(message_id)
            if message is not None:
                assert message["msg_type"] != "error", message
                found.setdefault(message["msg_type"], message)
        return found

    def _send(
        self,
        type: str,
        content: Mapping[str, object],
        parent: Mapping[str, object] | None = None,
        *,
        channel: str = "shell",
    ) -> str:
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": type,
            "username": "",
            "session": "a-test",
            "version": "5.3",
            "date": "2024-01-01T00:00:00Z",
        }
        message = {"channel": channel, "header": header, "metadata": {}}
        message["parent_header"] = parent or {}
        self._socket.send(json.dumps({**message, "content": content, "buffers": []}))
        return message_id

    def _reply(self, message_id: str) -> dict[str, Any] | None:
        """Return the next message that belongs to the request. None if none arrives in time."""
        while True:
            assert time.monotonic() < self._deadline, "the kernel did not answer"
            try:
                text = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                return None
            if not text:
                # A websocket that was closed by the other side does not close its socket.
                self._socket.shutdown()
                raise websocket.WebSocketConnectionClosedException
            message: dict[str, Any] = json.loads(text)
            if (message["parent_header"] or {}).get("msg_id") == message_id:
                return message
