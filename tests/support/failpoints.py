"""A server extension that breaks its server at points that a test chooses.

It wraps methods of the store and of the kernel provider. A point is ``before`` or ``after`` such a
method, for example ``after acquire``. A test sets failpoints through files in the folder that
``FAILPOINTS`` names (see ``Failpoints``). The server looks for a file each time it reaches the
point, so a test can set and clear failpoints while the server runs.
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
from nbsessions.kernels.gateway.provider import GatewayKernelProvider
from nbsessions.kernels.host import HostKernelProvider
from nbsessions.stores.postgres import PostgresSessionStore
from nbsessions.stores.sqlite.database import Database
from nbsessions.stores.sqlite.store import SQLiteSessionStore

STORE = ("acquire", "commit", "update", "delete", "finish_stop", "find_orphans", "recover")
WRAPPED = {
    SQLiteSessionStore: STORE,
    PostgresSessionStore: STORE,
    HostKernelProvider: ("start", "shutdown"),
    GatewayKernelProvider: ("start", "shutdown"),
}
EXTENSION = {"support.failpoints": True}


class Failpoints:
    """The folder with one server's failpoints. Both the test and the server use this class."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that the server needs."""
        return {"FAILPOINTS": str(self.folder)}

    def set(self, action: str, point: str = "") -> None:
        """Make the server perform the action at the point.

        - ``kill``: kill itself with SIGKILL.
        - ``hold``: wait there.
        - ``kept``, ``lost``: in ``commit`` or another write, report an uncertain commit that was
          made (``kept``) or was not (``lost``).
        - ``unanswered``: be unable to ask the store afterwards.
        - ``full``, ``readonly``: have a file that cannot grow, or cannot be written to.
        """
        if action == "hold":
            (self.folder / "held").unlink(missing_ok=True)
        # Rename it into place, so that the server never reads a half-written file.
        draft = self.folder / f".{action}"
        draft.write_text(point)
        draft.replace(self.folder / action)

    def clear(self, action: str) -> None:
        """Remove the failpoint."""
        (self.folder / action).unlink()

    def is_set(self, action: str, point: str = "") -> bool:
        """Return whether the action is set for this point."""
        try:
            return (self.folder / action).read_text() == point
        except FileNotFoundError:
            return False

    @property
    def is_held(self) -> bool:
        """Whether the server is waiting at its point."""
        return (self.folder / "held").exists()

    async def reached(self, point: str) -> None:
        """Perform the action that is set for the point."""
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
