"""Combines what running servers, the store and the kernel processes report."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nbsessions.cli.errors import ServerUnreachable
from nbsessions.cli.local_kernels import LocalKernel, LocalKernels
from nbsessions.cli.memory import ProcessTree
from nbsessions.cli.rest import ServerClient
from nbsessions.cli.running_servers import RunningServer, find_running_servers
from nbsessions.cli.values import LOCAL, Entry, ServerState
from nbsessions.errors import StoreError
from nbsessions.identity import boot_id, process_key
from nbsessions.kernels.gateway.names import url_of
from nbsessions.models import Owner
from nbsessions.registry.place import IMPORTED, is_local, this_place
from nbsessions.registry.servers import State
from nbsessions.stores.inspection import (
    StoreContents,
    StoredIntent,
    StoredOwner,
    StoredSession,
    StoreInspection,
)

_MAX_PARALLEL_REQUESTS = 8


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The reply of a running server, or why there is none."""

    server: RunningServer
    sessions: Sequence[Mapping[str, Any]] = ()
    kernels: Sequence[Mapping[str, Any]] = ()
    trouble: ServerUnreachable | None = None


class Overview:
    """A snapshot of all sessions and orphaned kernels of a user.

    ``notices`` tells the user what could not be found out.
    """

    def __init__(
        self,
        runtime_dir: Path,
        store: StoreInspection | None,
        namespace: str | None = None,
        *,
        log: logging.Logger,
    ) -> None:
        """Ask and read everything. Of the store, read one namespace, or all with None."""
        self.notices: list[str] = []
        self._place = this_place(str(runtime_dir), boot_id())
        self.kernels = LocalKernels(runtime_dir, log=log)
        self.answers = _ask(self._find_servers(runtime_dir))
        self.notices += [str(answer.trouble) for answer in self.answers if answer.trouble]
        contents = self._read(store, namespace)
        self.store_is_known = contents is not None
        """Whether the store could be read."""
        self.contents = contents or StoreContents()
        self._stored = {each.session.session_id: each for each in self.contents.sessions}
        self._cut_short = {
            stored.intent.kernel_id: stored
            for stored in self.contents.intents
            if stored.intent.kernel_id is not None and self._is_cut_short(stored)
        }
        self._namespace_is_folder = store is not None and store.namespace_is_folder
        self._tree = ProcessTree()
        self.sessions: tuple[Entry, ...] = (
            *self._sessions_of_servers(),
            *self._sessions_of_store(),
        )
        self.orphans: tuple[Entry, ...] = tuple(self._find_orphans())

    @property
    def no_sessions(self) -> str:
        """What to say when there are no sessions. There may be some in a store that is unknown."""
        known = "" if self.store_is_known else " of running servers"
        return f"There are no sessions{known}"

    @property
    def no_orphans(self) -> str:
        """What to say when there are no orphans. There may be some in a store that is unknown."""
        known = "" if self.store_is_known else " on this machine"
        return f"There are no orphaned kernels{known}"

    def server_of(self, entry: Entry) -> RunningServer:
        """Return the running server that has the entry's session."""
        servers = (answer.server for answer in self.answers)
        return next(server for server in servers if server.url == entry.server_url)

    def owner_of(self, server: RunningServer) -> StoredOwner | None:
        """Return the owner in the store that this server is."""
        owners = (each for each in self.contents.owners if not each.dead)
        return next((each for each in owners if is_run(each.owner, server.pid)), None)

    def sharing(self, kernel_id: str) -> list[Entry]:
        """Return the sessions of a kernel."""
        return [entry for entry in self.sessions if entry.kernel_id == kernel_id]

    def gateway_of(self, entry: Entry) -> str | None:
        """Return the URL of the gateway that runs the kernel, or None."""
        if entry.session_id is not None:
            stored = self._stored.get(entry.session_id)
            return None if stored is None else url_of(stored.session.provider)
        cut_short = self._cut_short.get(entry.kernel_id)
        return None if cut_short is None else url_of(cut_short.scope)

    def _find_servers(self, runtime_dir: Path) -> list[RunningServer]:
        servers, problems = find_running_servers(runtime_dir)
        self.notices += [f"running servers cannot be found: {error}" for error in problems]
        self._all_servers_are_known = not problems
        return servers

    def _read(self, store: StoreInspection | None, namespace: str | None) -> StoreContents | None:
        if store is None:
            return None
        try:
            return store.read_contents(namespace)
        except StoreError as error:
            self.notices.append(f"{error}. Sessions of running servers are known all the same")
            return None

    # Sessions of servers that can be asked

    def _sessions_of_servers(self) -> Iterator[Entry]:
        listed = set()
        for answer in self.answers:
            owner = self.owner_of(answer.server)
            for model in answer.sessions:
                # Servers of one namespace list the same sessions if they share a gateway.
                if model.get("id") not in listed:
                    listed.add(model.get("id"))
                    yield self._from_model(model, answer.server, owner)

    def _from_model(
        self, model: Mapping[str, Any], server: RunningServer, owner: StoredOwner | None
    ) -> Entry:
        kernel: Mapping[str, Any] = model.get("kernel") or {}
        kernel_id = str(kernel.get("id"))
        stored = self._stored.get(str(model.get("id")))
        return Entry(
            session_id=str(model.get("id")),
            path=model.get("path"),
            name=model.get("name"),
            type=model.get("type"),
            created=None if stored is None else stored.session.created,
            kernel_id=kernel_id,
            kernel_name=kernel.get("name"),
            kernel_location=self._location(
                kernel_id, None if stored is None else stored.session.provider
            ),
            state=str(kernel.get("execution_state", "unknown")),
            last_activity=_parse_time(kernel.get("last_activity")),
            connections=kernel.get("connections"),
            **self._process_of(kernel_id),
            server=ServerState.RUNNING,
            server_url=server.url,
            root_dir=server.root_dir,
            namespace=None if stored is None else stored.namespace,
            owner=owner,
        )

    # Sessions of servers that are dead or cannot be asked

    def _sessions_of_store(self) -> Iterator[Entry]:
        listed = {model.get("id") for answer in self.answers for model in answer.sessions}
        for stored in self.contents.sessions:
            if stored.session.session_id not in listed:
                entry = self._from_store(stored, self.contents.owner_of(stored))
                if entry is not None:
                    yield entry

    def _from_store(self, stored: StoredSession, owner: StoredOwner | None) -> Entry | None:
        provider = stored.session.provider
        # A gateway on this machine may have its kernels in the same runtime directory.
        is_remote = url_of(provider) is not None
        kernel = None if is_remote else self.kernels.find(stored.session.kernel_id)
        if owner is not None and not owner.dead:
            answer = self._answer_of(owner)
            if answer is not None and answer.trouble is None:
                return None  # It has just ended: its server no longer lists it.
            url = None if answer is None else answer.server.url
            return self._from_row(stored, owner, kernel, ServerState.UNREACHABLE, url)
        if kernel is None and not self._would_see(provider):
            return self._from_row(stored, owner, None, ServerState.NONE, None)
        if kernel is None or kernel.record is None:
            return None
        # If the server is not dead, it has adopted the kernel and will take over the session next.
        dead = kernel.server is State.DEAD
        state = ServerState.NONE if dead else ServerState.UNREACHABLE
        return self._from_row(stored, owner, kernel, state, None)

    def _would_see(self, provider: str) -> bool:
        """Return whether the provider's kernels have ended if they are not found here."""
        place = self._place
        return provider == IMPORTED or place.sees(provider) or place.has_rebooted(provider)

    def _answer_of(self, stored: StoredOwner) -> Answer | None:
        answers = (each for each in self.answers if is_run(stored.owner, each.server.pid))
        return next(answers, None)

    def _from_row(
        self,
        stored: StoredSession,
        owner: StoredOwner | None,
        kernel: LocalKernel | None,
        server: ServerState,
        server_url: str | None,
    ) -> Entry:
        session = stored.session
        record = None if kernel is None else kernel.record
        folder = stored.namespace if self._namespace_is_folder else None
        return Entry(
            session_id=session.session_id,
            path=session.path,
            name=session.name,
            type=session.type,
            created=session.created,
            kernel_id=session.kernel_id,
            kernel_name=session.kernel_name or (record.kernel_name if record else None),
            kernel_location=self._location(session.kernel_id, session.provider),
            state=record.execution_state if record else "unknown",
            last_activity=record.last_activity if record else None,
            connections=None,
            **self._process_of(session.kernel_id),
            server=server,
            server_url=server_url,
            root_dir=record.root_dir if record else folder,
            namespace=stored.namespace,
            owner=owner,
        )

    def _is_cut_short(self, stored: StoredIntent) -> bool:
        """Return whether no server of its namespace can complete the intent at its gateway."""
        if url_of(stored.scope) is None:
            return False
        owners = {self.contents.owner_of(stored), self._owner_with_id(stored.intent.owner)}
        return all(owner is None or owner.dead for owner in owners)

    def _owner_with_id(self, owner_id: str) -> StoredOwner | None:
        owners = (each for each in self.contents.owners if each.owner.owner_id == owner_id)
        return next(owners, None)

    # Kernels and sessions whose server is dead, and kernels that a server has taken over without
    # a session

    def _find_orphans(self) -> Iterator[Entry]:
        yield from self._kernels_without_server()
        yield from self._gateway_sessions_without_server()
        yield from self._gateway_kernels_without_session()
        yield from self._kernels_without_session()

    def _kernels_without_session(self) -> Iterator[Entry]:
        for answer in self.answers:
            for model in answer.kernels:
                kernel = self.kernels.find(str(model.get("id")))
                adopted = kernel is not None and kernel.record and kernel.record.adopted
                if kernel is not None and adopted and not self.sharing(kernel.kernel_id):
                    yield replace(
                        self._from_kernel(kernel),
                        state=str(model.get("execution_state", "unknown")),
                        last_activity=_parse_time(model.get("last_activity")),
                        connections=model.get("connections"),
                        server=ServerState.RUNNING,
                        server_url=answer.server.url,
                    )

    def _kernels_without_server(self) -> Iterator[Entry]:
        for kernel in self.kernels.list_orphans(self._served_kernel_ids()):
            entries = self.sharing(kernel.kernel_id)
            if not entries:
                yield self._from_kernel(kernel)
            elif all(entry.server is ServerState.NONE for entry in entries):
                yield from entries

    def _gateway_sessions_without_server(self) -> Iterator[Entry]:
        for entry in self.sessions:
            if entry.server is ServerState.NONE and self.gateway_of(entry) is not None:
                yield entry

    def _gateway_kernels_without_session(self) -> Iterator[Entry]:
        for kernel_id, stored in self._cut_short.items():
            if not self.sharing(kernel_id):
                yield self._from_intent(kernel_id, stored)

    def _served_kernel_ids(self) -> frozenset[str] | None:
        if not self._all_servers_are_known or any(answer.trouble for answer in self.answers):
            return None
        return frozenset(
            str(model.get("id")) for answer in self.answers for model in answer.kernels
        )

    def _from_kernel(self, kernel: LocalKernel) -> Entry:
        record = kernel.record
        return self._without_session(
            kernel.kernel_id,
            kernel_name=record.kernel_name if record else None,
            kernel_location=LOCAL,
            state=record.execution_state if record else "unknown",
            last_activity=record.last_activity if record else None,
            root_dir=record.root_dir if record else None,
            namespace=None,
            owner=None,
        )

    def _from_intent(self, kernel_id: str, stored: StoredIntent) -> Entry:
        return self._without_session(
            kernel_id,
            kernel_name=None,
            kernel_location=self._location(kernel_id, stored.scope),
            state="unknown",
            last_activity=None,
            root_dir=stored.namespace if self._namespace_is_folder else None,
            namespace=stored.namespace,
            owner=self.contents.owner_of(stored),
        )

    def _without_session(self, kernel_id: str, **known: Any) -> Entry:
        return Entry(
            session_id=None,
            path=None,
            name=None,
            type=None,
            created=None,
            kernel_id=kernel_id,
            connections=None,
            server=ServerState.NONE,
            server_url=None,
            **{**known, **self._process_of(kernel_id)},
        )

    def _location(self, kernel_id: str, provider: str | None) -> str | None:
        """Return where the kernel is, or None if that is unknown."""
        url = None if provider is None else url_of(provider)
        if url is None and self.kernels.find(kernel_id) is not None:
            return LOCAL
        if provider is None:
            return None
        return LOCAL if is_local(provider) else url or provider

    def _process_of(self, kernel_id: str) -> dict[str, int | None]:
        kernel = self.kernels.find(kernel_id)
        if kernel is None:
            return {"pid": None, "memory": None}
        pid = kernel.identity.pid
        return {"pid": pid, "memory": self._tree.memory_of(pid)}


def is_run(owner: Owner, pid: int) -> bool:
    """Return whether the owner is the process of this machine that has this id."""
    if not owner.process:
        return owner.host == socket.gethostname() and owner.pid == pid
    try:
        # In containers, many hosts may have the same name and process ids.
        return owner.boot_id == boot_id() and owner.process == process_key(pid)
    except ProcessLookupError:
        return False


def _ask(servers: Sequence[RunningServer]) -> list[Answer]:
    with ThreadPoolExecutor(
        _MAX_PARALLEL_REQUESTS, thread_name_prefix="nbsessions-asking"
    ) as pool:
        return list(pool.map(_ask_one, servers))


def _ask_one(server: RunningServer) -> Answer:
    client = ServerClient(server)
    try:
        kernels = client.list_kernels()
        sessions = client.list_sessions()
    except ServerUnreachable as trouble:
        return Answer(server=server, trouble=trouble)
    return Answer(server=server, sessions=sessions, kernels=kernels)


def _parse_time(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
