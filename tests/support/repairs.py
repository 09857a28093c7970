"""Damages a store's file, and kills servers at each step of the repair."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbsessions.stores.sqlite import SQLiteSessionStore, database
from support.stores import rows
from support.values import make_owner

DAMAGES = ("header", "index", "table", "tail")
PAGE = 4096
STEPS = ("open", "os.remove", "os.rename", "sqlite3.connect")
WRITES = ("INSERT", "COMMIT")


def spoil(path: Path, damage: str) -> None:
    """Overwrite or cut off a part of the file, as a failing disk does."""
    data = bytearray(path.read_bytes())
    if damage == "header":
        data[:100] = b"x" * 100  # NOTADB
    elif damage == "tail":
        del data[len(data) // 2 :]  # CORRUPT, the rest is missing
    else:
        name = {"index": "nbsessions_session_document", "table": "nbsessions_session"}[damage]
        [(root,)] = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = ?", name)
        start = (root - 1) * PAGE
        data[start : start + PAGE] = b"\xff" * PAGE  # CORRUPT
    path.write_bytes(data)


def die_at_each_step(path: Path, wal: bool) -> list[tuple[list[str], str]]:
    """Let servers open the damaged file and die, each one step later than the one before.

    Return, for each of them, the sessions that the next server finds, and the log of both.
    """
    database.is_local = lambda folder: wal  # type: ignore[attr-defined,misc]
    damaged = path.read_bytes()
    outcomes = []
    survived = False
    while not survived:
        folder = path.with_name(f"{len(outcomes)}")
        folder.mkdir()
        (folder / path.name).write_bytes(damaged)
        child = os.fork()
        if child == 0:
            try:
                _call_at_each_step(_dying_at(len(outcomes)))
                _open(folder / path.name)
            finally:
                os._exit(sys.exc_info()[0] is not None)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        survived = status == 0
        found = _open(folder / path.name)
        outcomes.append((found, (folder / "log").read_text()))
        shutil.rmtree(folder)
    return outcomes


def _open(path: Path) -> list[str]:
    log = logging.getLogger(str(path))
    handler = logging.FileHandler(path.with_name("log"))
    log.addHandler(handler)
    store = SQLiteSessionStore(path, "namespace", log=log)
    try:
        return asyncio.run(_find_left(store))
    finally:
        store.close()
        handler.close()


async def _find_left(store: SQLiteSessionStore) -> list[str]:
    await store.open(make_owner("after"))
    return [session.session_id for session in (await store.find_orphans()).sessions]


def _dying_at(last: int) -> Callable[[], None]:
    steps = iter(range(last))

    def step() -> None:
        if next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def _call_at_each_step(step: Callable[[], None]) -> None:
    """Call ``step`` before each change that this process makes to a file or database."""
    connect = sqlite3.connect

    def trace(statement: str) -> None:
        if statement.startswith(WRITES):
            step()

    def connect_and_trace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(trace)
        return connection

    sqlite3.connect = connect_and_trace  # type: ignore[assignment]
    sys.addaudithook(lambda event, arguments: step() if event in STEPS else None)
