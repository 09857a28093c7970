"""What the pages of a browser did, for the report of a test that has failed."""

from __future__ import annotations

import json
import time
from collections import deque

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, WebSocket

_MOST = 400
_LONGEST = 200
_MOST_PARTS = 1000


class PageLog:
    """The newest events of all pages of a browser's profile."""

    def __init__(self, context: BrowserContext) -> None:
        self._lines: deque[str] = deque(maxlen=_MOST)
        context.on("console", self._note_console)
        context.on("requestfailed", self._note_failed)
        context.on("page", self._follow)

    def text(self) -> str:
        return "\n".join(self._lines)

    def _note(self, *words: object) -> None:
        now = time.time()
        text = " ".join(map(str, words))[:_LONGEST]
        self._lines.append(f"{time.strftime('%H:%M:%S', time.gmtime(now))}.{now % 1:.3f} {text}")

    def _note_console(self, message: ConsoleMessage) -> None:
        self._note("console", message.type, message.text)

    def _note_failed(self, request: Request) -> None:
        self._note("failed", request.method, request.url, request.failure)

    def _follow(self, page: Page) -> None:
        page.on("pageerror", lambda error: self._note("error", error))
        page.on("websocket", self._follow_websocket)

    def _follow_websocket(self, websocket: WebSocket) -> None:
        name = websocket.url.partition("/api/")[2].partition("?")[0]
        described = _described if name.startswith("kernels/") else _size
        self._note("opens", name)
        websocket.on("framesent", lambda frame: self._note("sends", name, described(frame)))
        websocket.on("framereceived", lambda frame: self._note("gets", name, described(frame)))
        websocket.on("socketerror", lambda error: self._note("error", name, error))
        websocket.on("close", lambda _: self._note("closed", name))


def _described(frame: str | bytes) -> str:
    """Return the types of a kernel's message and of its request, and how its content begins."""
    if isinstance(frame, str):
        return frame
    if int.from_bytes(frame[:8], "little") > _MOST_PARTS:
        return _size(frame)  # It is of another protocol, and would be decoded for ever.
    try:
        channel, parts = deserialize_msg_from_ws_v1(frame)  # type: ignore[no-untyped-call]
        header, parent = (json.loads(part) for part in parts[:2])
        of = parent.get("msg_type"), str(parent.get("msg_id"))[:8]
        return f"{channel} {header['msg_type']} of {of} {parts[3].decode()}"
    except (ValueError, LookupError, AttributeError):
        return _size(frame)


def _size(frame: str | bytes) -> str:
    return f"{len(frame)} bytes"
