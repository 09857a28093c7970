"""Records what many clients request and what they are told, and checks that it is consistent."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KERNELS = 40
"""The maximum number of kernels that may run at the same time."""


class History:
    """What all clients have requested and been told.

    A session *stays* unless some client has asked to end it, or to end a kernel that it may have.
    Clients record such a request before they send it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.moving = threading.Lock()
        """Held while renaming shared files: concurrent renames of one file are up to the host."""
        self.failed = threading.Event()
        self.operations: Counter[str] = Counter()
        self.documents: dict[str, str] = {}
        """The document that each session was requested for, by session id."""
        self.kernel_ids: dict[str, set[str]] = {}
        """The kernels that each session may have, for all sessions that may exist."""
        self.born: dict[str, float] = {}
        """For each kernel, a time at which it did not exist yet."""
        self.kept: set[str] = set()
        """Kernels that were started without a session and must be kept."""
        self._ends: set[str] = set()
        self._ended: dict[str, float] = {}
        self._starting = 0

    def count(self, operation: str) -> None:
        with self.lock:
            self.operations[operation] += 1

    @contextmanager
    def room(self) -> Iterator[bool]:
        """Yield whether another kernel may be started within the ``with`` block."""
        with self.lock:
            free = len(self.kernels() | self.kept) + self._starting < KERNELS
            self._starting += free
        try:
            yield free
        finally:
            with self.lock:
                self._starting -= free

    def known(self, folder: str = "") -> list[str]:
        """Return the ids of the sessions that may exist."""
        with self.lock:
            return [each for each in self.kernel_ids if self.documents[each].startswith(folder)]

    def kernels(self) -> set[str]:
        """Return the ids of the kernels that sessions may have."""
        with self.lock:
            return set().union(*self.kernel_ids.values())

    def staying(self, document: str) -> set[str]:
        """Return the ids of the document's sessions that stay."""
        with self.lock:
            return {
                each
                for each in self.kernel_ids
                if self.documents[each] == document and self.stays(each)
            }

    def stays(self, session_id: str) -> bool:
        with self.lock:
            return self._ends.isdisjoint({session_id, *self.kernel_ids.get(session_id, ())})

    def will_end(self, *ids: str) -> None:
        """Record the sessions or kernels that a client is about to end."""
        with self.lock:
            self._ends.update(ids)

    def may_have(self, session_id: str, *kernel_ids: str) -> None:
        with self.lock:
            if session_id in self.kernel_ids:
                self.kernel_ids[session_id] = set(kernel_ids)

    def saw(self, model: dict[str, Any], document: str, begun: float) -> None:
        """Record a session from the reply to a request that was sent at ``begun``."""
        session_id, kernel_id = model["id"], model["kernel"]["id"]
        with self.lock:
            self.check_lives(session_id, begun)
            self.born[kernel_id] = min(begun, self.born.get(kernel_id, begun))
            if session_id not in self._ended:
                self.documents[session_id] = document
                self.kernel_ids[session_id] = {kernel_id}

    def check_lives(self, session_id: str, begun: float) -> None:
        ended = self._ended.get(session_id)
        assert ended is None or ended > begun, f"session {session_id} is back"

    def gone(self, session_id: str, begun: float) -> None:
        """Record that a request sent at ``begun`` did not find the session.

        Fails unless some client has asked to end the session.
        """
        with self.lock:
            if self.kernel_ids.get(session_id):
                assert not self.stays(session_id), f"session {session_id} is lost"
                del self.kernel_ids[session_id]
            self._ended.setdefault(session_id, time.monotonic())

    def check_list(self, models: list[dict[str, Any]], known: list[str], begun: float) -> None:
        """Compare a list, requested at ``begun``, with the sessions that were known before."""
        listed = {model["id"] for model in models}
        assert len(listed) == len(models)
        contended = [each["path"].strip("/") for each in models if "contended" in each["path"]]
        assert len(contended) == len(set(contended)), "a path has two sessions"
        for model in models:
            check_shape(model)
            self.check_lives(model["id"], begun)
        for session_id in set(known) - listed:
            self.gone(session_id, begun)


def check_shape(model: dict[str, Any]) -> None:
    """Check that a model has all the fields that clients require."""
    assert {type(model[key]) for key in ("id", "path", "name", "type")} == {str}
    kernel = model["kernel"]
    assert {type(kernel[key]) for key in ("id", "name", "last_activity", "execution_state")} == {
        str
    }
    assert type(kernel["connections"]) is int
    notebook = {"path": model["path"], "name": model["name"]}
    assert model.get("notebook") == (notebook if model["type"] == "notebook" else None)


def fields_of(model: dict[str, Any]) -> dict[str, str]:
    """Return the fields that clients can set."""
    fields = {key: model[key] for key in ("path", "name", "type")}
    return {**fields, "kernel_id": model["kernel"]["id"]}
