"""What many clients have asked a server for and were told, which has to fit together."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KERNELS = 40
"""How many kernels may run at once."""


class History:
    """What all clients have asked for and were told.

    A session *stays* unless somebody has asked for its end, or for the end of a kernel that it
    may have. It is noted before it is asked for.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.moving = threading.Lock()
        """Held by who renames files of all: two renames of one file are the host's affair."""
        self.failed = threading.Event()
        self.operations: Counter[str] = Counter()
        self.documents: dict[str, str] = {}
        """What sessions were asked for, by their ids."""
        self.kernel_ids: dict[str, set[str]] = {}
        """The kernels that a session may have, for all that may be there."""
        self.born: dict[str, float] = {}
        """Before when a kernel was not there."""
        self.kept: set[str] = set()
        """The kernels that were started without a session, and are to be kept."""
        self._ends: set[str] = set()
        self._ended: dict[str, float] = {}
        self._starting = 0

    def count(self, operation: str) -> None:
        with self.lock:
            self.operations[operation] += 1

    @contextmanager
    def room(self) -> Iterator[bool]:
        """Tell whether another kernel may be started within."""
        with self.lock:
            free = len(self.kernels() | self.kept) + self._starting < KERNELS
            self._starting += free
        try:
            yield free
        finally:
            with self.lock:
                self._starting -= free

    def known(self, folder: str = "") -> list[str]:
        """Return the sessions that may be there."""
        with self.lock:
            return [each for each in self.kernel_ids if self.documents[each].startswith(folder)]

    def kernels(self) -> set[str]:
        """Return the kernels that sessions may have."""
        with self.lock:
            return set().union(*self.kernel_ids.values())

    def staying(self, document: str) -> set[str]:
        """Return the sessions of the document that stay."""
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
        """Note what somebody is about to end, session or kernel."""
        with self.lock:
            self._ends.update(ids)

    def may_have(self, session_id: str, *kernel_ids: str) -> None:
        with self.lock:
            if session_id in self.kernel_ids:
                self.kernel_ids[session_id] = set(kernel_ids)

    def saw(self, model: dict[str, Any], document: str, begun: float) -> None:
        """Note a session that a request, begun then, was answered with."""
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
        """Note that a session is not there, which somebody has to have asked for.

        A request told so that was begun then.
        """
        with self.lock:
            if self.kernel_ids.get(session_id):
                assert not self.stays(session_id), f"session {session_id} is lost"
                del self.kernel_ids[session_id]
            self._ended.setdefault(session_id, time.monotonic())

    def check_list(self, models: list[dict[str, Any]], known: list[str], begun: float) -> None:
        """Compare a list, whose request was begun then, with what was known before."""
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
    """All is there that clients insist on."""
    assert {type(model[key]) for key in ("id", "path", "name", "type")} == {str}
    kernel = model["kernel"]
    assert {type(kernel[key]) for key in ("id", "name", "last_activity", "execution_state")} == {
        str
    }
    assert type(kernel["connections"]) is int
    notebook = {"path": model["path"], "name": model["name"]}
    assert model.get("notebook") == (notebook if model["type"] == "notebook" else None)


def fields_of(model: dict[str, Any]) -> dict[str, str]:
    """Return what clients set."""
    fields = {key: model[key] for key in ("path", "name", "type")}
    return {**fields, "kernel_id": model["kernel"]["id"]}
