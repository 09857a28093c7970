"""Other processes that use a store, lock it or die with it, as a test commands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nbsessions.errors import StoreUnavailable
from nbsessions.locks import FileLock
from nbsessions.models import Owner, Session
from nbsessions.stores.base import SessionStore
from nbsessions.stores.postgres import PostgresSessionStore
from nbsessions.stores.postgres.settings import connection_settings
from nbsessions.stores.postgres.tables import PostgresTables
from nbsessions.stores.sqlite import SQLiteSessionStore, database
from nbsessions.stores.sqlite.locks import StoreLocks
from support.values import make_id, make_owner, make_session, make_start

_ANSWER_TIMEOUT = 300.0
NOBODY = 65534
# Forked from a process that has imported what takes long, and that runs nothing else.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["__main__", "nbsessions.stores.sqlite"])


class OtherProcess:
    """Calls functions of this module in a separate process, which keeps state between calls."""

    def __init__(self) -> None:
        self._connection, theirs = _processes.Pipe()
        self._process = _processes.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call the function there. Return or raise what it does."""
        self.tell(function, *arguments)
        return self.answer()

    def tell(self, function: Callable[..., Any], *arguments: object) -> None:
        """Call the function there, without waiting for it."""
        self._connection.send((function, arguments))

    def answer(self) -> Any:
        """Wait for the result of a call made by ``tell``."""
        assert self._connection.poll(_ANSWER_TIMEOUT), "the other process did not answer"
        outcome, error = self._connection.recv()
        if error is not None:
            raise error
        return outcome

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        self._process.kill()
        self._process.join()

    def suspend(self) -> None:
        """Stop the process, as if the machine had forgotten it."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on after it has stopped itself (SIGCONT)."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self._connection.close()
        self._process.close()


@contextmanager
def other_process() -> Iterator[OtherProcess]:
    """Yield another process, and end it afterwards."""
    process = OtherProcess()
    try:
        yield process
    finally:
        process.close()


def _serve(connection: Connection) -> None:
    while True:
        function, arguments = connection.recv()
        try:
            connection.send((function(*arguments), None))
        except Exception as error:
            connection.send((None, error))


# Functions to call in the other process

_loop: asyncio.AbstractEventLoop | None = None
_store: SessionStore | None = None
_held: list[Any] = []


def open_store(
    place: Path | str, owner: Owner, namespace: str = "namespace", wal: bool = True
) -> None:
    """Open the store in a file, or in the database with this URL."""
    global _loop, _store
    database.is_local = lambda folder: wal  # type: ignore[attr-defined,misc]
    _loop = _loop or asyncio.new_event_loop()
    log = logging.getLogger("other-process")
    log.addHandler(logging.NullHandler())
    # Some tests run more of these at once, and keep them busy longer, than real servers do.
    if isinstance(place, str):
        _store = PostgresSessionStore(connection_settings(place), namespace, log=log)
    else:
        _store = SQLiteSessionStore(place, namespace, log=log, busy_timeout=60.0)
    _loop.run_until_complete(_store.open(owner))


def insert(session: Session) -> Session:
    assert _loop is not None
    assert _store is not None
    return _loop.run_until_complete(_store.insert(session))


def stall_in_a_transaction(session: Session) -> Session:
    """Insert a session in PostgreSQL, and stop this process on the way (SIGSTOP)."""
    add_session = PostgresTables.add_session

    def stalling(tables: PostgresTables, added: Session) -> Session:
        PostgresTables.add_session = add_session  # type: ignore[method-assign]
        signal.raise_signal(signal.SIGSTOP)
        return add_session(tables, added)

    PostgresTables.add_session = stalling  # type: ignore[method-assign,assignment]
    return insert(session)


def list_sessions() -> list[Session]:
    assert _loop is not None
    assert _store is not None
    return list(_loop.run_until_complete(_store.list_sessions()))


def insert_and_list(scope: str, count: int) -> int:
    """Insert sessions, list them after each one, and return how many are listed."""
    for number in range(count):
        insert(make_session(f"{number}", scope=scope))
        assert len(list_sessions()) == number + 1
    return len(list_sessions())


def close_store(running: Collection[str] = ()) -> None:
    assert _store is not None
    _store.close(running)


def lock_rows(path: Path) -> None:
    """Take SQLite's own write lock and keep it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    _held.append(connection)


def lock_file(path: Path, shared: bool) -> bool:
    """Take an advisory lock on a lock file and keep it."""
    lock = FileLock(path)
    _held.append(lock)
    return lock.acquire(shared=shared)


def let_go() -> None:
    """Release what ``lock_rows`` and ``lock_file`` took."""
    while _held:
        _held.pop().close()


def write_without_a_pause(path: Path, begun: Path, stop: Path) -> None:
    """Take the commit lock again and again, for 0.1 s each, until the file ``stop`` exists.

    Create the file ``begun`` when the lock was taken for the first time.
    """
    locks = StoreLocks(path, timeout=60.0)
    locks.open()
    while not stop.exists():
        with locks.for_writing():
            begun.touch()
            time.sleep(0.1)
    locks.close()


def become_nobody() -> None:
    """Become a user that file permissions apply to, unlike root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def fork_sleeper(path: Path) -> int:
    """Take the lock, fork a child that only sleeps, and return its process id."""
    lock_file(path, False)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(told, b".")
        while True:
            time.sleep(60)
    os.read(ready, 1)
    return child


def lose_the_file_again_and_again(
    path: Path, suffixes: Collection[str], times: int
) -> tuple[list[int], list[str], list[str]]:
    """Repeatedly delete the file of an open store and insert a session, while readers are active.

    Return the lengths of the lists that lacked acknowledged sessions, the ids of all inserted
    sessions, and the final list.
    """
    open_store(path, make_owner())
    assert _loop is not None
    return _loop.run_until_complete(_lose(path, suffixes, times))


async def _lose(
    path: Path, suffixes: Collection[str], times: int
) -> tuple[list[int], list[str], list[str]]:
    assert _store is not None
    kept: list[str] = []
    partial: list[int] = []
    done = asyncio.Event()

    async def read(store: SessionStore) -> None:
        while not done.is_set():
            acknowledged = list(kept)
            listed = [session.session_id for session in await store.list_sessions()]
            if listed[: len(acknowledged)] != acknowledged:
                partial.append(len(listed))
            # This reads the file, not memory, and the file may be missing at the moment.
            with contextlib.suppress(StoreUnavailable):
                await store.count_by_kernel("kernel")

    readers = [asyncio.ensure_future(read(_store)) for _ in range(3)]
    for number in range(times):
        for suffix in suffixes:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        kept.append((await _store.insert(make_session(f"{number}"))).session_id)
    done.set()
    await asyncio.gather(*readers)
    return partial, kept, [session.session_id for session in await _store.list_sessions()]


def hammer(place: Path | str, owner_id: str, rounds: int, wal: bool = True) -> list[str]:
    """Start and delete sessions from several tasks. Return the ids that must remain."""
    open_store(place, make_owner(owner_id), wal=wal)
    assert _loop is not None
    return _loop.run_until_complete(_hammer(owner_id, rounds))


async def _hammer(owner_id: str, rounds: int) -> list[str]:
    assert _store is not None
    kept: list[str] = []
    for number in range(rounds):
        made = await asyncio.gather(*(_start(owner_id, f"{number}-{n}") for n in range(4)))
        await _store.delete(made[0].session_id, stop_token=make_id())
        kept.extend(session.session_id for session in made[1:])
        assert [session.session_id for session in await _store.list_sessions()] == kept
    return kept


async def _start(owner_id: str, document: str) -> Session:
    assert _store is not None
    start = make_start(document, scope=owner_id)
    assert await _store.acquire(start) is None
    return await _store.commit(start.token, make_session(document, scope=owner_id))
