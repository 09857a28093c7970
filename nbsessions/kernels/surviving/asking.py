"""Asks a kernel for its info on behalf of the server, and recognises what that causes."""

from __future__ import annotations

import logging
from typing import Any

from jupyter_client.session import Session


class KernelInfoRequests:
    """The requests for its info that a server sends to a kernel, besides those of clients."""

    def __init__(self, kernel: Any, *, log: logging.Logger) -> None:
        self._session = _session_like(kernel.session)
        self._log = log
        self._sent: set[str] = set()

    def __len__(self) -> int:
        return len(self._sent)

    def send(self, stream: Any) -> str:
        """Send a request on a shell stream, and return its id."""
        request = self._session.msg("kernel_info_request", {})
        message_id: str = request["header"]["msg_id"]
        self._sent.add(message_id)
        self._session.send(stream, request)
        return message_id

    def caused(self, message: dict[str, Any]) -> bool:
        """Return whether a message answers one of the requests, or comes along with it."""
        return parent_id(message) in self._sent

    def parent_of(self, frames: list[bytes]) -> str:
        """Return the id of the request that a message answers."""
        message = self.read(frames)
        return "" if message is None else parent_id(message)

    def read(self, frames: list[bytes]) -> dict[str, Any] | None:
        """Return the message in the frames, or None if it cannot be read."""
        try:
            _, parts = self._session.feed_identities(frames)
            return dict(self._session.deserialize(parts))
        except Exception as error:
            self._log.debug("A kernel message could not be read: %r", error)
            return None


def parent_id(message: dict[str, Any]) -> str:
    """Return the id of the request that a message answers."""
    return str((message["parent_header"] or {}).get("msg_id", ""))


def _session_like(session: Session) -> Session:
    """Return a session that reads the same messages, even those that ``session`` has read."""
    return Session(
        key=session.key, signature_scheme=session.signature_scheme, digest_history_size=0
    )
