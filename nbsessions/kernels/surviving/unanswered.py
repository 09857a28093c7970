"""Makes up the replies that were lost with a server.

A reply goes to one socket only. If it has reached a server that is killed before it has passed the
reply on, nobody has it. The same is true if a busy kernel does not notice that its client is now
connected through another server. What the kernel publishes says how a cell has ended, but it says
nothing about other requests.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from jupyter_client.session import Session

from nbsessions.keeper.messages import CONTENT, HEADER, PARENT, decoded, key_of_request, type_of
from nbsessions.kernels.surviving.made_up import make_up

_TELLING = {"execute_input", "error", "status"}


class Unanswered:
    """The cells of one client that have ended, but whose replies have not been seen."""

    def __init__(self, client: str, answered: Collection[str]) -> None:
        """``answered``: the keys of requests that the client has got replies to."""
        self._client = client
        self._answered = {key.encode() for key in answered}
        self._ran: set[bytes] = set()
        """The requests that something was published for. Their cells were not skipped."""
        self._inputs: dict[bytes, dict[str, Any]] = {}
        self._errors: dict[bytes, dict[str, Any]] = {}
        self._ended: dict[bytes, tuple[dict[str, Any], bytes]] = {}
        """Of each cell that has ended: the header of its request, and that of its last message."""
        self._parent = b""
        """The last parent header. Most messages have that of the one before."""

    def see(self, channel: str, message: Sequence[bytes]) -> None:
        """Note what a message tells about the cells of the client."""
        if channel == "shell":
            key = key_of_request(message[PARENT])
            self._answered.add(key)
            self._ended.pop(key, None)
        elif channel == "iopub":
            kind = type_of(message[HEADER])
            if kind != "status" and message[PARENT] != self._parent:
                self._parent = message[PARENT]
                self._ran.add(key_of_request(message[PARENT]))
            if kind in _TELLING:
                parent = decoded(message[PARENT])
                if self._is_cell(parent):
                    self._note(kind, key_of_request(message[PARENT]), parent, message)

    def _is_cell(self, request: Mapping[str, Any]) -> bool:
        is_ours = request.get("session") == self._client
        return is_ours and request.get("msg_type") == "execute_request"

    def _note(
        self, kind: str, key: bytes, request: dict[str, Any], message: Sequence[bytes]
    ) -> None:
        content = decoded(message[CONTENT])
        if kind == "execute_input":
            self._inputs[key] = content
        elif kind == "error":
            self._errors[key] = content
        elif content.get("execution_state") == "idle" and key not in self._answered:
            self._ended[key] = request, message[HEADER]

    def ended_before(self, key: bytes) -> list[bytes]:
        """Return those of ``ended`` that have ended before the cell of another request."""
        return list(takewhile(lambda each: each != key, self._ended))

    def ended(self) -> list[bytes]:
        """Return the keys of the requests whose cells have ended without a reply."""
        return list(self._ended)

    def make_up(self, keys: Iterable[bytes], session: Session) -> list[list[bytes]]:
        """Return signed replies to those of the requests that have none yet."""
        replies = []
        for key in keys:
            ended = self._ended.pop(key, None)
            if ended is None:
                continue
            request, header = ended
            replies.append(
                make_up(
                    session,
                    "execute_reply",
                    self._content(key),
                    request=request,
                    header=header,
                    metadata={"nbsessions": {"lost": True}},
                )
            )
        return replies

    def _content(self, key: bytes) -> dict[str, Any]:
        """Return the content of a reply, without the values of ``user_expressions``."""
        ran, error = self._inputs.get(key), self._errors.get(key)
        if key not in self._ran:
            return {"status": "aborted"}  # An earlier cell has failed.
        # If the cell has run for long, nobody knows any more how it began.
        count = {"execution_count": ran.get("execution_count") if ran is not None else None}
        if error is not None:
            return {"status": "error", **error, **count}
        return {"status": "ok", "payload": [], "user_expressions": {}, **count}
