"""Runs code in a kernel over the server's websocket, as a notebook does."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import websocket

_TIMEOUT = 60.0
_PATIENCE = 0.5


class Address(Protocol):
    """Where a server is."""

    port: int
    token: str

    def url_path(self, path: str) -> str:
        """Return the path below the base URL."""


class Channel:
    """One websocket to one kernel that is up."""

    def __init__(self, server: Address, kernel_id: str) -> None:
        path = server.url_path(f"/api/kernels/{kernel_id}/channels?session_id={uuid.uuid4()}")
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{server.port}{path}",
            header=[f"Authorization: token {server.token}"],
            timeout=_TIMEOUT,
        )
        self._socket.settimeout(_PATIENCE)
        self._deadline = time.monotonic() + _TIMEOUT

    def __enter__(self) -> Channel:
        # Until the kernel is up, a server may drop what it is sent, and the results of what it
        # has sent on, which come by a socket of their own.
        try:
            message = None
            while message is None or message["channel"] != "iopub":
                if message is None:
                    message_id = self._send("kernel_info_request", {})
                message = self._reply(message_id)
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def execute(self, code: str) -> str:
        """Run code and return its result as plain text."""
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        message_id = self._send("execute_request", content)
        while True:
            message = self._reply(message_id)
            if message is not None and message["msg_type"] == "execute_result":
                result: str = message["content"]["data"]["text/plain"]
                return result
            assert message is None or message["msg_type"] != "error", message

    def _send(self, type: str, content: Mapping[str, object]) -> str:
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": type,
            "username": "",
            "session": "a-test",
            "version": "5.3",
            "date": "2024-01-01T00:00:00Z",
        }
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}}
        self._socket.send(json.dumps({**message, "content": content, "buffers": []}))
        return message_id

    def _reply(self, message_id: str) -> dict[str, Any] | None:
        """Return the next message about this request, None if there is none for a moment."""
        while True:
            assert time.monotonic() < self._deadline, "the kernel does not answer"
            try:
                message: dict[str, Any] = json.loads(self._socket.recv())
            except websocket.WebSocketTimeoutException:
                return None
            if message["parent_header"].get("msg_id") == message_id:
                return message
