"""Servers that are killed at random moments, under traffic: nothing is lost and nothing leaks.

The keeper of their output may be killed, too. On an odd day, more happens: locks are held,
files removed, and servers that do not see the kernels come and go. ``STORM_ROUNDS`` and
``STORM_SEED`` in the environment set how often and which.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from nbsessions.locks import FileLock
from support.rest import Reply
from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest
from support.waiting import wait_until

ROUNDS = int(os.environ.get("STORM_ROUNDS", "6"))
SEED = int(os.environ.get("STORM_SEED", "1"))
CLIENTS = 4
LONGEST_ROUND = 1.5
KERNEL_ID = re.compile(r"(?<=kernel-)[\w-]+(?=\.json)")


@dataclass
class Client:
    """Works on sessions of its own, and keeps account of what it was told."""

    server: Server
    number: int
    random: random.Random
    sessions: dict[str, str] = field(default_factory=dict)
    """The acknowledged sessions: their paths by id."""
    deleted: set[str] = field(default_factory=set)
    settled: list[str] = field(default_factory=list)
    """The sessions whose kernels have not been started or restarted in this round."""
    doubtful: set[str] = field(default_factory=set)
    """The sessions about which a request was never answered, or refused for the time being."""
    doubtful_new: int = 0
    """How many such requests were for new ones."""
    created: int = 0
    refused: int = 0

    def work(self) -> None:
        """Send one request after the other until the server is gone."""
        try:
            while True:
                self.random.choice([self.create, self.rename, self.delete, self.restart])()
        except (http.client.HTTPException, OSError):
            return

    def create(self) -> None:
        self.created += 1
        self.doubtful_new += 1
        path = f"{self.number}-{self.created}.ipynb"
        reply = self.server.post({"path": path, "type": "notebook", "kernel": {"name": "light"}})
        if not self._is_refused(reply):
            assert reply.status == 201, reply.body
            self.sessions[reply.json()["id"]] = path
            self.doubtful_new -= 1

    def rename(self) -> None:
        def patch(session_id: str) -> bool:
            path = f"{self.number}-{self.random.random()}.ipynb"
            reply = self.server.patch(session_id, {"path": path})
            if self._is_refused(reply):
                return False
            assert reply.status == 200, reply.body
            self.sessions[session_id] = path
            return True

        self._with_one(patch, self.sessions)

    def delete(self) -> None:
        def delete(session_id: str) -> bool:
            reply = self.server.delete(session_id)
            if self._is_refused(reply):
                return False
            # What was refused before may have been done.
            assert reply.status == 204 or session_id in before, reply.body
            del self.sessions[session_id]
            self.deleted.add(session_id)
            return True

        before = set(self.doubtful)
        self._with_one(delete, self.sessions)

    def restart(self) -> None:
        def restart(session_id: str) -> bool:
            reply = self.server.get(session_id)
            if not self._is_refused(reply):
                kernel_id = reply.json()["kernel"]["id"]
                self.server.request("POST", f"/api/kernels/{kernel_id}/restart")
            return True

        # One that is still booting may get the shutdown request of its predecessor: what
        # jupyter_client could not deliver at once is delivered for another 0.1 s.
        self.settled = [each for each in self.settled if each in self.sessions]
        self._with_one(restart, self.settled[:1])
        self.settled = self.settled[1:]

    def _with_one(self, action: Callable[[str], bool], among: Collection[str]) -> None:
        # One that may have been deleted is left alone.
        certain = sorted(set(among) - self.doubtful)
        if certain:
            session_id = self.random.choice(certain)
            self.doubtful.add(session_id)
            if action(session_id):
                self.doubtful.discard(session_id)

    def _is_refused(self, reply: Reply) -> bool:
        if reply.status != 503:
            return False
        self.refused += 1
        return True

    def check(self, listed: dict[str, str]) -> None:
        """Compare with the paths of the sessions that are there after the crash."""
        assert not self.deleted & listed.keys(), "what was deleted is back"
        for session_id, path in list(self.sessions.items()):
            if session_id not in self.doubtful:
                assert listed.get(session_id) == path, "an acknowledged session is not as it was"
            elif session_id not in listed:
                del self.sessions[session_id]
        mine = {key: path for key, path in listed.items() if path.startswith(f"{self.number}-")}
        assert len(mine.keys() - self.sessions.keys()) <= self.doubtful_new
        self.sessions = mine
        self.settled = self.random.sample(sorted(mine), len(mine))
        self.doubtful.clear()
        self.doubtful_new = 0


@pytest.mark.parametrize("keeper", ["goes on", "is killed, too"])
def test_a_storm_of_crashes_loses_nothing_and_leaks_nothing(
    start_server: StartServer, keeper: str
) -> None:
    server = start_server()
    dice = random.Random(SEED)
    clients = [Client(server, number, random.Random(dice.random())) for number in range(CLIENTS)]
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        threads[0].join(timeout=dice.uniform(0.1, LONGEST_ROUND))
        if keeper == "is killed, too":
            killing = threading.Timer(dice.uniform(0.0, 0.5), _kill_keeper, [server])
            killing.start()
            threads[0].join(timeout=dice.uniform(0.0, 0.5))
        server.kill()
        for thread in threads:
            thread.join()
        server.start()
        _check(server, clients)
    assert sum(client.refused for client in clients) == 0
    _end(server)


def _kill_keeper(server: Server) -> None:
    keeper = server.keeper_process()
    if keeper is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            keeper.kill()


def _end(server: Server) -> None:
    """End all sessions and the server: nothing is left."""
    for model in server.list_sessions():
        assert server.delete(model["id"]).status == 204
    server.wait_for_kernels(0)
    # The last server may have ended kernels of a dead one, which the next one forgets.
    assert server.stop() == 0
    assert server.start().stop() == 0
    wait_until(lambda: server.keeper_process() is None, "the keeper has ended")
    assert server.kept_files() == []
    assert server.registry_files() == []
    assert list(server.runtime_dir.glob("kernel-*.json")) == []
    assert read_store(server.store).sessions == []


# An odd day

NAMESPACE = {"AsyncSessionManager": {"namespace": "my notebooks"}}
LONGEST_LOCK = 15.0 if ROUNDS >= 50 else 2.0


@dataclass
class OddDay:
    """What happens to a server beside its crashes."""

    server: Server
    strangers: list[Server]
    """Servers on the same file that do not see the kernels, or do not follow them."""
    dice: random.Random

    def happen(self) -> threading.Thread | None:
        """Let something happen under traffic; return what goes on after the crash."""
        kind = self.dice.choice(["a lock", "files", "locks", "folder", "a visit", "nothing"])
        if kind == "a lock":
            return self._hold_a_lock()
        if kind == "a visit":
            self.visit()
        elif kind != "nothing":
            self._remove({"files": "sessions.db*", "locks": "sessions.db.*", "folder": ""}[kind])
        return None

    def _hold_a_lock(self) -> threading.Thread:
        suffix = self.dice.choice([".write", ".turn", ".lock"])
        seconds = self.dice.uniform(1.0, LONGEST_LOCK)
        held = threading.Event()

        def hold() -> None:
            with closing(FileLock(self.server.store.with_name(f"sessions.db{suffix}"))) as lock:
                lock.acquire(shared=suffix == ".lock", timeout=30)
                held.set()
                time.sleep(seconds)

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        held.wait()
        return thread

    def _remove(self, pattern: str) -> None:
        folder = self.server.store.parent
        if pattern:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        # What is killed before it could write again has lost what it had.
        wait_until(self._is_back, "the server has written it again")

    def _is_back(self) -> bool:
        try:
            owners = read_store(self.server.store).owners
        except (OSError, sqlite3.Error):
            return False
        ours = [each["owner"] for each in owners if each["pid"] == self.server.pid]
        return bool(ours) and all(
            is_locked(self.server.store.with_name(f"sessions.db.owner-{each}")) for each in ours
        )

    def visit(self) -> None:
        """Have a server come and go that has nothing to do with the kernels."""
        stranger = self.dice.choice(self.strangers).start()
        wait_until(lambda: stranger.request("GET", "/api/sessions").status == 200, "it can list")
        assert stranger.list_sessions() == []
        if self.dice.random() < 0.5:
            assert stranger.stop() == 0
        else:
            stranger.kill()


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock of a file that is there."""
    try:
        lock = FileLock(path, flags=os.O_RDWR)
    except OSError:
        return False
    with closing(lock):
        return not lock.acquire()


def test_a_storm_of_crashes_on_an_odd_day_loses_nothing_and_leaks_nothing(
    start_server: StartServer,
) -> None:
    server = start_server(config=NAMESPACE)
    places = {"data_dir": server.data_dir, "config": NAMESPACE, "start": False}
    runtime = {"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)}
    strangers = [
        start_server(root_dir=server.root_dir, **places),  # another runtime directory
        start_server(environment=runtime, **places),  # a second folder of the namespace
    ]
    dice = random.Random(f"odd {SEED}")
    clients = [Client(server, number, random.Random(dice.random())) for number in range(CLIENTS)]
    day = OddDay(server, strangers, dice)
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        threads[0].join(timeout=dice.uniform(0.1, LONGEST_ROUND))
        goes_on = day.happen()
        threads[0].join(timeout=dice.uniform(0.1, LONGEST_ROUND))
        server.kill()
        for thread in threads:
            thread.join()
        if dice.random() < 0.3:
            day.visit()
        server.start()
        # Until it knows what it has, it says so. It never lists less.
        wait_until(lambda: server.request("GET", "/api/sessions").status == 200, "it can list")
        _check(server, clients)
        if goes_on is not None:
            goes_on.join()
    _end(server)


def _check(server: Server, clients: list[Client]) -> None:
    """Nothing acknowledged is missing; sessions, kernels, processes and records agree."""
    models = server.list_sessions()
    for client in clients:
        client.check({model["id"]: model["path"] for model in models})
    held = {model["kernel"]["id"] for model in models}
    assert len(held) == len(models)

    def agree() -> bool:
        lines = server.kernel_commands().values()
        processes = [KERNEL_ID.search(line)[0] for line in lines if KERNEL_ID.search(line)]
        return sorted(processes) == sorted(held) and server.kernel_records() == held

    wait_until(agree, "there is a process and a record for each session's kernel")
    assert server.kernel_ids() == held
    wait_for_rest(server.store)
    assert {model["id"] for model in server.list_sessions()} == {model["id"] for model in models}
