"""A server extension that breaks its server where a test says, by wrapping the ports.

A test says it with files in the folder that ``FAILPOINTS`` names, see ``Failpoints``: each is
looked at when its point is reached, so that it can come and go while the server runs. Points
are ``before`` or ``after`` a method of the store or of the kernel provider: ``after acquire``.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbsessions.errors import StoreUnavailable, StoreUncertain
from nbsessions.kernels.host import HostKernelProvider
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.store import SQLiteSessionStore

WRAPPED = {
    SQLiteSessionStore: (
        "acquire",
        "commit",
        "update",
        "delete",
        "finish_stop",
        "find_orphans",
        "recover",
    ),
    HostKernelProvider: ("start", "shutdown"),
}
EXTENSION = {"support.failpoints": True}


class Failpoints:
    """The folder of one server's failpoints, as the test and the server see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """What the server's environment needs."""
        return {"FAILPOINTS": str(self.folder)}

    def set(self, action: str, point: str = "") -> None:
        """Have the server do this at the point.

        ``kill``: SIGKILL itself. ``hold``: wait there. ``kept`` and ``lost``: in ``commit``,
        or another write: report an uncertain commit that was, or was not, made.
        ``unanswered``: not be able to ask the store afterwards. ``full`` and ``readonly``:
        have a file that cannot grow, or cannot be written.
        """
        if action == "hold":
            (self.folder / "held").unlink(missing_ok=True)
        # Renamed into place, so that nobody reads half of it.
        draft = self.folder / f".{action}"
        draft.write_text(point)
        draft.replace(self.folder / action)

    def clear(self, action: str) -> None:
        """Let the server go on."""
        (self.folder / action).unlink()

    def is_set(self, action: str, point: str = "") -> bool:
        """Return whether this is to be done here."""
        try:
            return (self.folder / action).read_text() == point
        except FileNotFoundError:
            return False

    @property
    def is_held(self) -> bool:
        """Whether the server waits at its point."""
        return (self.folder / "held").exists()

    async def reached(self, point: str) -> None:
        """Do what is to be done at the point."""
        if self.is_set("kill", point):
            os.kill(os.getpid(), signal.SIGKILL)
        while self.is_set("hold", point):
            (self.folder / "held").touch()
            await asyncio.sleep(0.01)


def _load_jupyter_server_extension(serverapp: Any) -> None:
    failpoints = Failpoints(Path(os.environ["FAILPOINTS"]))
    for port, names in WRAPPED.items():
        for name in names:
            _wrap(port, name, failpoints)
    _wrap_questions(failpoints)
    _wrap_transaction(failpoints)


def _wrap(port: type, name: str, failpoints: Failpoints) -> None:
    method = getattr(port, name)

    @functools.wraps(method)
    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        await failpoints.reached(f"before {name}")
        if failpoints.is_set("lost", name):
            raise StoreUncertain("cut off")
        result = await method(self, *args, **kwargs)
        if failpoints.is_set("kept", name):
            raise StoreUncertain("cut off")
        await failpoints.reached(f"after {name}")
        return result

    setattr(port, name, wrapped)


def _wrap_questions(failpoints: Failpoints) -> None:
    find_intent = SQLiteSessionStore.find_intent

    @functools.wraps(find_intent)
    async def wrapped(self: Any, token: str) -> Any:
        if failpoints.is_set("unanswered"):
            raise StoreUnavailable("no answer")
        return await find_intent(self, token)

    SQLiteSessionStore.find_intent = wrapped


def _wrap_transaction(failpoints: Failpoints) -> None:
    transaction = Database.transaction

    @contextmanager
    def wrapped(self: Database, connection: sqlite3.Connection, **options: Any) -> Iterator[None]:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        limit = pages if failpoints.is_set("full") else 2**30
        connection.execute(f"PRAGMA max_page_count = {limit}")
        connection.execute(f"PRAGMA query_only = {int(failpoints.is_set('readonly'))}")
        with transaction(self, connection, **options):
            yield

    Database.transaction = wrapped
