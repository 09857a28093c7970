"""Clients that use a fleet while its servers are killed, and check what they are told."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import websocket

from support.channel import Channel
from support.history import check_shape, fields_of
from support.rest import SESSIONS, Reply, RestClient

OPEN = 4
"""How many sessions a client has at most, besides the one that it runs code in."""

_PATIENCE = 60.0
"""Seconds within which a request has to get through."""
_PAUSE = 0.1
"""Seconds before a client tries again."""
_RUNS = 5
"""How often a client runs code over one websocket, if nothing cuts it."""
_OF_NGINX = b"nginx"


class Tally:
    """What all clients together have done and been told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.longest_wait = 0.0
        self.failed = threading.Event()
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def waited(self, seconds: float) -> None:
        with self._lock:
            self.longest_wait = max(self.longest_wait, seconds)


class FleetClient:
    """Opens, uses, renames and deletes sessions of its own, and repeats what was refused."""

    def __init__(self, balancer: RestClient, number: int, seed: int, tally: Tally) -> None:
        self.sessions: dict[str, dict[str, str]] = {}
        """The expected fields of the client's sessions, by session id."""
        self._balancer = balancer
        self._folder = f"client-{number}"
        self._dice = random.Random(f"{seed} {number}")
        self._tally = tally
        self._names = 0
        self._values = 0
        self._channel: Channel | None = None
        self._runs = 0
        self._kernel_id = ""

    def work(self, deadline: float) -> None:
        """Do random things until the deadline, or until another client has failed."""
        try:
            self._prepare()
            while time.monotonic() < deadline and not self._tally.failed.is_set():
                self._dice.choice(self._actions())()
            self._run_code()
        except BaseException:
            self._tally.failed.set()
            raise
        finally:
            self._hang_up()

    def delete_all(self) -> None:
        """Delete all sessions of this client."""
        for session_id in list(self.sessions):
            self._delete(session_id)

    def _actions(self) -> list[Callable[[], None]]:
        can_open = len(self.sessions) <= OPEN
        return [
            *([self._open, self._open, self._open_twice_at_once] if can_open else []),
            *[self._run_code] * 3,
            *[self._rename] * 2,
            self._open_again,
            self._delete_one,
            self._get,
            self._get_kernel,
            self._list,
        ]

    # Requests

    def _ask(self, method: str, path: str, body: object = None) -> tuple[Reply, bool]:
        """Send a request until a server answers it. Return whether it was sent before, too."""
        began = time.monotonic()
        sent_before = False
        while True:
            reply = self._balancer.request(method, path, body)
            if reply.status != 503:
                self._tally.count(f"{method} {reply.status}")
                self._tally.waited(time.monotonic() - began)
                return reply, sent_before
            self._refused(method, reply.body)
            assert time.monotonic() < began + _PATIENCE, (method, path, reply.body)
            sent_before = True
            time.sleep(_PAUSE)

    def _refused(self, what: str, body: bytes) -> None:
        who = "balancer" if _OF_NGINX in body else "server"
        self._tally.count(f"{what} 503 by the {who}")

    def _create(self, path: str, kernel_name: str = "light") -> dict[str, Any]:
        body = {"path": path, "name": path, "type": "notebook", "kernel": {"name": kernel_name}}
        reply, _ = self._ask("POST", SESSIONS, body)
        assert reply.status == 201, (reply.status, reply.body)
        model: dict[str, Any] = reply.json()
        check_shape(model)
        assert model["path"] == path
        return model

    def _delete(self, session_id: str) -> None:
        reply, sent_before = self._ask("DELETE", f"{SESSIONS}/{session_id}")
        # It may have been carried out when the server was killed.
        assert reply.status == 204 or (reply.status == 404 and sent_before), reply
        del self.sessions[session_id]

    def _keep(self, model: dict[str, Any]) -> None:
        self.sessions[model["id"]] = fields_of(model)

    # What it does

    def _prepare(self) -> None:
        model = self._create(self._new_path(), "python3")
        self._keep(model)
        self._kernel_id = model["kernel"]["id"]
        self._run(f"marker = {self._folder!r}; marker")

    def _open(self) -> None:
        self._keep(self._create(self._new_path()))

    def _open_twice_at_once(self) -> None:
        path = self._new_path()
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(self._create, [path, path])
        assert fields_of(one) == fields_of(other), "a path has two kernels"
        assert one["id"] == other["id"], "a path has two sessions"
        self._keep(one)

    def _open_again(self) -> None:
        session_id = self._pick()
        model = self._create(self.sessions[session_id]["path"])
        assert model["id"] == session_id, "a session is lost"
        assert fields_of(model) == self.sessions[session_id]

    def _rename(self) -> None:
        session_id = self._pick()
        changes = {"path": self._new_path()}
        reply, _ = self._ask("PATCH", f"{SESSIONS}/{session_id}", changes)
        assert reply.status == 200, (reply.status, reply.body)
        self.sessions[session_id].update(changes)
        assert fields_of(reply.json()) == self.sessions[session_id]

    def _get(self) -> None:
        session_id = self._pick()
        reply, _ = self._ask("GET", f"{SESSIONS}/{session_id}")
        assert reply.status == 200, (reply.status, reply.body)
        assert fields_of(reply.json()) == self.sessions[session_id]

    def _get_kernel(self) -> None:
        kernel_id = self.sessions[self._pick()]["kernel_id"]
        reply, _ = self._ask("GET", f"/api/kernels/{kernel_id}")
        assert reply.status == 200, (reply.status, reply.body)

    def _list(self) -> None:
        reply, _ = self._ask("GET", SESSIONS)
        assert reply.status == 200, (reply.status, reply.body)
        mine = [each for each in reply.json() if each["path"].startswith(f"{self._folder}/")]
        assert {each["id"]: fields_of(each) for each in mine} == self.sessions

    def _delete_one(self) -> None:
        others = [
            each for each, is_ in self.sessions.items() if is_["kernel_id"] != self._kernel_id
        ]
        if others:
            self._delete(self._dice.choice(sorted(others)))

    def _run_code(self) -> None:
        self._values += 1
        assert self._run(f"marker, {self._values}") == repr((self._folder, self._values))

    def _pick(self) -> str:
        return self._dice.choice(sorted(self.sessions))

    def _new_path(self) -> str:
        self._names += 1
        return f"{self._folder}/{self._names}.ipynb"

    # The websocket

    def _run(self, code: str) -> str:
        """Run code that may be run twice, over as many websockets as it takes."""
        began = time.monotonic()
        while True:
            try:
                value = self._open_channel().execute(code)
                self._runs += 1
                self._tally.count("code was run")
                self._tally.waited(time.monotonic() - began)
                return value
            except websocket.WebSocketBadStatusException as error:
                if error.status_code != 503:
                    raise
                self._refused("websocket", error.resp_body or b"")
                time.sleep(_PAUSE)
            except (websocket.WebSocketConnectionClosedException, OSError):
                self._tally.count("websocket cut")
            self._hang_up()
            assert time.monotonic() < began + _PATIENCE, "no websocket"

    def _open_channel(self) -> Channel:
        if self._runs >= _RUNS:
            self._hang_up()
        if self._channel is None:
            self._channel = Channel(self._balancer, self._kernel_id)
            self._channel.__enter__()
        return self._channel

    def _hang_up(self) -> None:
        self._runs = 0
        if self._channel is not None:
            self._channel.close()
            self._channel = None
