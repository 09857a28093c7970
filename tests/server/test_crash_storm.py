"""Servers that are killed at random moments, under traffic: nothing is lost and nothing leaks.

``STORM_ROUNDS`` and ``STORM_SEED`` in the environment set how often and which.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

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
    doubtful: str | None = None
    """The session whose last request was never answered; an unknown one has the id ``new``."""
    created: int = 0

    def work(self) -> None:
        """Send one request after the other until the server is gone."""
        try:
            while True:
                self.random.choice([self.create, self.rename, self.delete, self.restart])()
        except (http.client.HTTPException, OSError):
            return

    def create(self) -> None:
        self.created += 1
        self.doubtful = "new"
        model = self.server.create(f"{self.number}-{self.created}.ipynb")
        self.sessions[model["id"]] = model["path"]
        self.doubtful = None

    def rename(self) -> None:
        def patch(session_id: str) -> None:
            path = f"{self.number}-{self.random.random()}.ipynb"
            assert self.server.patch(session_id, {"path": path}).status == 200
            self.sessions[session_id] = path

        self._with_one(patch, self.sessions)

    def delete(self) -> None:
        def delete(session_id: str) -> None:
            assert self.server.delete(session_id).status == 204
            del self.sessions[session_id]
            self.deleted.add(session_id)

        self._with_one(delete, self.sessions)

    def restart(self) -> None:
        def restart(session_id: str) -> None:
            kernel_id = self.server.get(session_id).json()["kernel"]["id"]
            self.server.request("POST", f"/api/kernels/{kernel_id}/restart")

        # One that is still booting may get the shutdown request of its predecessor: what
        # jupyter_client could not deliver at once is delivered for another 0.1 s.
        self.settled = [each for each in self.settled if each in self.sessions]
        self._with_one(restart, self.settled[:1])
        self.settled = self.settled[1:]

    def _with_one(self, action: Callable[[str], None], among: Collection[str]) -> None:
        if among:
            self.doubtful = self.random.choice(sorted(among))
            action(self.doubtful)
            self.doubtful = None

    def check(self, listed: dict[str, str]) -> None:
        """Compare with the paths of the sessions that are there after the crash."""
        assert not self.deleted & listed.keys(), "what was deleted is back"
        for session_id, path in list(self.sessions.items()):
            if session_id == self.doubtful:
                continue
            assert listed.get(session_id) == path, "an acknowledged session is not as it was"
        if self.doubtful in self.sessions and self.doubtful not in listed:
            del self.sessions[self.doubtful]
        mine = {key: path for key, path in listed.items() if path.startswith(f"{self.number}-")}
        assert len(mine.keys() - self.sessions.keys()) <= (self.doubtful == "new")
        self.sessions = mine
        self.settled = self.random.sample(sorted(mine), len(mine))
        self.doubtful = None


def test_a_storm_of_crashes_loses_nothing_and_leaks_nothing(start_server: StartServer) -> None:
    server = start_server()
    dice = random.Random(SEED)
    clients = [Client(server, number, random.Random(dice.random())) for number in range(CLIENTS)]
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=client.work, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        threads[0].join(timeout=dice.uniform(0.1, LONGEST_ROUND))
        server.kill()
        for thread in threads:
            thread.join()
        server.start()
        _check(server, clients)
    for model in server.list_sessions():
        assert server.delete(model["id"]).status == 204
    server.wait_for_kernels(0)
    # The last server may have ended kernels of a dead one, which the next one forgets.
    assert server.stop() == 0
    assert server.start().stop() == 0
    assert list(server.runtime_dir.glob("nbsessions/*/*")) == []
    assert list(server.runtime_dir.glob("kernel-*.json")) == []
    assert read_store(server.store).sessions == []


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
