"""Clients that perform random operations on sessions and check the replies."""

from __future__ import annotations

import http.client
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from support.history import History, check_shape, fields_of
from support.rest import SESSIONS, Reply
from support.server import Server

DOCUMENTS = 6
"""The number of documents in each group that clients share."""
SHARED_FOR = 2.0  # less than in the service: a client learns of a start only from the reply
LIGHT = {"name": "light"}

ANSWERS = {
    "list": {200},
    "get": {200, 404},
    "create": {201},
    "create with a kernel": {201, 409},
    "create with a bad body": {400},
    "create with a bad kernelspec": {501},
    "change": {200, 404},
    "change to a lost kernel": {200, 400, 404, 409},
    "change to an unknown kernel": {400, 404},
    "change with a bad body": {400},
    "change to a bad kernelspec": {501, 404},
    "delete": {204, 404},
    "get, change or delete an unknown session": {404},
    "start a kernel": {201},
    "end a kernel": {204, 404},
    "end a kernel of mine": {204},
    "rename a file": {200},
}
"""The allowed status codes, by operation."""

BAD_BODIES: list[object] = [
    b"{",
    [],
    {"path": ["a"], "type": "notebook"},
    {"path": "a\0b", "type": "notebook"},
    {"path": "p" * 4097, "type": "notebook"},
    {"path": "a", "type": 1},
    {"path": "a", "type": "file", "kernel": "light"},
    {"path": "a", "type": "file", "kernel": {"id": 1}},
]


@dataclass
class Client:
    """Performs random operations on its own sessions and on shared ones."""

    server: Server
    history: History
    number: int
    random: random.Random
    connection: http.client.HTTPConnection
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    """The expected fields of the sessions that no other client changes, by session id."""
    kept: list[str] = field(default_factory=list)
    names: int = 0

    def __post_init__(self) -> None:
        self.folder = self.new_path()

    def work(self, deadline: float) -> None:
        """Perform operations until the deadline, or until another client has failed."""
        try:
            while time.monotonic() < deadline and not self.history.failed.is_set():
                self.do_something()
        except BaseException:
            self.history.failed.set()
            raise

    def do_something(self) -> None:
        more, fewer = self.more(), self.fewer()
        if self.random.random() < 0.4:
            with self.history.room() as room:
                self.random.choice(more if room else fewer)()
        else:
            self.random.choice([*fewer, *self.changes()])()

    def more(self) -> list[Callable[[], None]]:
        return [
            *[self.open_contended] * 5,
            *[self.open_window] * 3,
            *[self.open_moved] * 2,
            *[self.open_own] * 2,
            self.open_own_as_a_window_does,
            *[self.switch] * 3,
            self.keep_a_kernel,
        ]

    def fewer(self) -> list[Callable[[], None]]:
        return [
            *[self.delete_own] * 2,
            *[lambda: self.delete_one_of("contended/")] * 2,
            lambda: self.delete_one_of("moved/"),
            self.end_kept_kernel,
            self.end_kernel,
        ]

    def changes(self) -> list[Callable[[], None]]:
        return [
            *[self.list] * 3,
            *[self.get] * 3,
            *[self.borrow] * 4,
            *[self.change] * 4,
            *[self.attach] * 3,
            self.reopen,
            self.move,
            self.move_files,
            self.rename_file,
            self.rename_folder,
            self.ask_for_nonsense,
            self.ask_for_the_unknown,
        ]

    # Requests

    def ask(self, operation: str, method: str, path: str, body: Any = None) -> Reply:
        reply = self.server.request(method, path, body, connection=self.connection)
        assert reply.status in ANSWERS[operation], (operation, reply.status, reply.body)
        assert reply.status < 400 or reply.message
        self.history.count(operation)
        return reply

    def post(
        self,
        path: str,
        name: str,
        kernel: dict[str, str] | None = None,
        document: str | None = None,
        operation: str = "create",
    ) -> dict[str, Any] | None:
        begun = time.monotonic()
        body = {"path": path, "name": name, "type": "notebook"}
        reply = self.ask(operation, "POST", SESSIONS, {**body, "kernel": kernel or LIGHT})
        if reply.status != 201:
            return None
        model: dict[str, Any] = reply.json()
        check_shape(model)
        assert reply.headers["location"].endswith(f"{SESSIONS}/{model['id']}")
        self.history.saw(model, document or path.strip("/"), begun)
        return model

    def patch(
        self, session_id: str, body: object, query: str = "", operation: str = "change"
    ) -> dict[str, Any] | None:
        """Return the changed model, or None if the change was refused."""
        return self.ask_session(operation, "PATCH", session_id, body, query)

    def ask_session(
        self, operation: str, method: str, session_id: str, body: object = None, query: str = ""
    ) -> dict[str, Any] | None:
        begun = time.monotonic()
        reply = self.ask(operation, method, f"{SESSIONS}/{session_id}{query}", body)
        if reply.status == 404:
            self.history.gone(session_id, begun)
            self.own.pop(session_id, None)
        if reply.status != 200:
            return None
        model: dict[str, Any] = reply.json()
        check_shape(model)
        assert model["id"] == session_id
        self.history.check_lives(session_id, begun)
        return model

    def delete(self, session_id: str) -> None:
        force = self.random.random() < 0.2
        kernel_ids = self.history.kernel_ids.get(session_id, ()) if force else ()
        self.history.will_end(session_id, *kernel_ids)
        query = "?force_kernel_shutdown=true" if force else ""
        begun = time.monotonic()
        self.ask("delete", "DELETE", f"{SESSIONS}/{session_id}{query}")
        self.history.gone(session_id, begun)
        self.own.pop(session_id, None)

    def pick(self, among: Any) -> Any:
        """Return a random element, regardless of their order. None if there are none."""
        ordered = sorted(among)
        return self.random.choice(ordered) if ordered else None

    def new_path(self, folder: str | None = None) -> str:
        self.names += 1
        return f"{folder or f'own/{self.number}'}/{self.names}"

    # Documents that many clients request at once, and that nobody moves

    def open_contended(self) -> None:
        document = f"contended/{self.random.randrange(DOCUMENTS)}"
        before = self.history.staying(document)
        model = self.post(self.random.choice(["", "/"]) + document, "contended")
        assert model is not None
        with self.history.lock:
            now = self.history.staying(document)
            assert before & now <= {model["id"]}, "a path has a second session"
            if model["id"] in now:
                assert now == {model["id"]}, "a path has two sessions"

    def open_window(self) -> None:
        """Open a notebook as JupyterLab does in several windows within seconds."""
        document = f"windows/{self.random.randrange(2)}.ipynb"
        with self.history.lock:
            staying = self.history.staying(document)
            before = {each: self.history.kernel_ids[each] for each in staying}
        model = self.open_by_placeholder(document, "windows")
        if model is None:
            return
        with self.history.lock:
            staying = self.history.staying(document)
            held = set().union(*(before[each] for each in before.keys() & staying))
            now = time.monotonic()
            young = {each for each in held if now - self.history.born[each] < SHARED_FOR}
            assert young <= {model["kernel"]["id"]}, "two windows have different kernels"

    def open_by_placeholder(self, document: str, folder: str) -> dict[str, Any] | None:
        name = document.rpartition("/")[2]
        made_up = uuid.UUID(int=self.random.getrandbits(128), version=4)
        model = self.post(f"{folder}/{made_up}", name, document=document)
        assert model is not None
        self.own[model["id"]] = fields_of(model)
        for change in ({"path": document}, {"name": name}):
            self.change_own(model["id"], change)
        return model

    # Documents that many clients move

    def open_moved(self) -> None:
        self.post(f"moved/{self.random.randrange(DOCUMENTS)}", "moved")

    def move(self) -> None:
        session_id = self.pick(self.history.known("moved/"))
        if session_id is not None:
            folder = self.random.choice(["moved", "moved/one", "moved/two"])
            path = f"{folder}/{self.random.randrange(DOCUMENTS)}"
            self.patch(session_id, {"path": path})

    def move_files(self) -> None:
        """Move a file or a folder, and move it back."""
        file = f"moved/{self.random.randrange(DOCUMENTS)}"
        old, new = self.random.choice([("moved/one", "moved/two"), (file, f"{file}-moved")])
        with self.history.moving:
            self.rename(old, new)
            self.rename(new, old)

    def rename(self, old: str, new: str) -> None:
        self.ask("rename a file", "PATCH", f"/api/contents/{old}", {"path": new})

    # The client's own documents

    def open_own(self) -> None:
        path = self.new_path(self.folder)
        self.opened(self.post(path, path.rpartition("/")[2]))

    def open_own_as_a_window_does(self) -> None:
        self.open_by_placeholder(f"{self.new_path(self.folder)}.ipynb", self.folder)

    def borrow(self) -> None:
        """Open a document with a kernel of any session, or with a kept one without a session."""
        path = self.new_path(self.folder)
        kernel_id, operation = self.pick(self.history.kernels()), "create with a kernel"
        if self.kept and self.random.random() < 0.3:
            kernel_id, operation = self.take_kept(), "create"
        if kernel_id is not None:
            model = self.post(path, "borrower", {"id": kernel_id, **LIGHT}, operation=operation)
            assert model is None or model["kernel"]["id"] == kernel_id
            self.opened(model)

    def opened(self, model: dict[str, Any] | None) -> None:
        if model is not None:
            self.own[model["id"]] = fields_of(model)

    def reopen(self) -> None:
        """POST the path of a session that may still exist, to get that session again."""
        session_id = self.pick(self.own)
        path = session_id and self.own[session_id]["path"]
        if not session_id or not path.startswith(self.folder):
            return
        begun = time.monotonic()
        model = self.post(path, "reopened")
        assert model is not None
        if model["id"] == session_id:
            assert fields_of(model) == self.own[session_id]
        else:
            self.history.gone(session_id, begun)
            del self.own[session_id]
            self.opened(model)

    def pick_own(self) -> str | None:
        """Return one of the client's sessions whose document no other client uses."""
        return self.pick(
            each for each, is_ in self.own.items() if is_["path"].startswith(self.folder)
        )

    def change(self) -> None:
        path = self.new_path(self.folder)
        values = {"path": path, "name": path, "type": self.random.choice(["notebook", "file"])}
        chosen = self.random.sample(sorted(values), self.random.randint(1, 3))
        session_id = self.pick_own()
        if session_id is not None:
            self.change_own(session_id, {key: values[key] for key in chosen})

    def change_own(self, session_id: str, changes: dict[str, str]) -> None:
        if session_id in self.own:
            model = self.patch(session_id, changes)
            if model is not None:
                self.own[session_id].update(changes)
                assert fields_of(model) == self.own[session_id]

    def switch(self) -> None:
        """Switch a session to a new kernel."""
        session_id = self.pick_own()
        if session_id is None:
            return
        query = ""
        if self.random.random() < 0.2:
            query = "?force_kernel_shutdown=true"
            self.history.will_end(self.own[session_id]["kernel_id"])
        begun = time.monotonic()
        model = self.patch(session_id, {"kernel": LIGHT}, query)
        self.switched(session_id, model, begun)

    def attach(self) -> None:
        """Switch a session to a kernel of any session, or to a kept one without a session."""
        session_id, kernel_id = self.pick_own(), self.pick(self.history.kernels())
        if session_id is None or kernel_id is None:
            return
        kept = self.take_kept() if self.random.random() < 0.5 else None
        current = self.own[session_id]["kernel_id"]
        begun = time.monotonic()
        if kept is not None:
            model = self.patch(session_id, {"kernel": {"id": kept}})
            if model is None:
                self.keep(kept)
        else:
            self.history.may_have(session_id, current, kernel_id)
            body = {"kernel": {"id": kernel_id}}
            model = self.patch(session_id, body, operation="change to a lost kernel")
            if model is None and session_id in self.own:
                self.history.may_have(session_id, current)
        self.switched(session_id, model, begun)

    def switched(self, session_id: str, model: dict[str, Any] | None, begun: float) -> None:
        if model is not None:
            self.own[session_id]["kernel_id"] = model["kernel"]["id"]
            assert fields_of(model) == self.own[session_id]
            self.history.saw(model, self.own[session_id]["path"], begun)

    def rename_file(self) -> None:
        session_id = self.pick_own()
        if session_id is not None:
            old, new = self.own[session_id]["path"], self.new_path(self.folder)
            file = self.server.root_dir / old
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            self.rename(old, new)
            self.follow(old, new)

    def rename_folder(self) -> None:
        old, self.folder = self.folder, self.new_path()
        (self.server.root_dir / old).mkdir(parents=True, exist_ok=True)
        self.rename(old, self.folder)
        self.follow(old, self.folder)

    def follow(self, old: str, new: str) -> None:
        for model in self.own.values():
            if f"{model['path']}/".startswith(f"{old}/"):
                path = new + model["path"][len(old) :]
                if model["name"] == model["path"].rpartition("/")[2]:
                    model["name"] = path.rpartition("/")[2]
                model["path"] = path

    # Ends

    def delete_own(self) -> None:
        session_id = self.pick(self.own)
        if session_id is not None:
            self.delete(session_id)

    def delete_one_of(self, folder: str) -> None:
        session_id = self.pick(self.history.known(folder))
        if session_id is not None:
            self.delete(session_id)

    def end_kernel(self) -> None:
        """End a kernel, whatever sessions it has."""
        kernel_id = self.pick(self.history.kernels())
        if kernel_id is not None:
            self.history.will_end(kernel_id)
            self.ask("end a kernel", "DELETE", f"/api/kernels/{kernel_id}")

    # Kernels without sessions

    def keep_a_kernel(self) -> None:
        self.keep(self.ask("start a kernel", "POST", "/api/kernels", LIGHT).json()["id"])

    def keep(self, kernel_id: str) -> None:
        self.kept.append(kernel_id)
        with self.history.lock:
            self.history.kept.add(kernel_id)

    def take_kept(self) -> str | None:
        if not self.kept:
            return None
        kernel_id = self.kept.pop()
        with self.history.lock:
            self.history.kept.discard(kernel_id)
        return kernel_id

    def end_kept_kernel(self) -> None:
        kernel_id = self.take_kept()
        if kernel_id is not None:
            self.ask("end a kernel of mine", "DELETE", f"/api/kernels/{kernel_id}")

    # Reads, and requests that must fail

    def list(self) -> None:
        known, begun = self.history.known(), time.monotonic()
        self.history.check_list(self.ask("list", "GET", SESSIONS).json(), known, begun)

    def get(self) -> None:
        session_id = self.pick(self.history.known())
        if session_id is not None:
            self.ask_session("get", "GET", session_id)

    def ask_for_nonsense(self) -> None:
        body, kernel = self.random.choice(BAD_BODIES), {"kernel": {"name": "no-such-kernel"}}
        path = self.new_path(self.folder)
        self.ask("create with a bad body", "POST", SESSIONS, body)
        bad_kernel = {"path": path, "type": "file", **kernel}
        self.ask("create with a bad kernelspec", "POST", SESSIONS, bad_kernel)
        session_id = self.pick_own()
        if session_id is not None:
            self.patch(session_id, body, operation="change with a bad body")
            self.patch(session_id, kernel, operation="change to a bad kernelspec")

    def ask_for_the_unknown(self) -> None:
        unknown = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        for method in ("GET", "PATCH", "DELETE"):
            body = {"path": "a"} if method == "PATCH" else None
            operation = "get, change or delete an unknown session"
            self.ask(operation, method, f"{SESSIONS}/{unknown}", body)
        session_id = self.pick_own()
        if session_id is not None:
            body = {"kernel": {"id": unknown}}
            self.patch(session_id, body, operation="change to an unknown kernel")
