"""Compares the service with a simple model during races, failures and crashes.

After each step, the sessions are those of the model and the kernels those of the sessions. None
is lost, leaked or duplicated. Above all, the next server that serves the kernel of an acknowledged
session lists that session, or cannot be queried yet. It never lists other sessions without it,
even if the file was lost or another server has used it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
import uuid
from collections import Counter
from collections.abc import Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from nbsessions.errors import SessionError, StoreError, StoreUnavailable
from nbsessions.models import NewSession, Session, SessionPatch, is_within, named_document
from nbsessions.service import cleanup
from nbsessions.stores import transaction
from nbsessions.stores.base import LONGEST_LEASE, SessionStore
from support.faults import Fault
from support.provider import FakeKernelProvider
from support.services import Bench, make_owner, make_store, notebook
from support.starts import start_request
from support.storefile import read_rows

T = TypeVar("T")

DOCUMENTS = ("a.ipynb", "d/c.ipynb")
PATHS = st.sampled_from([*DOCUMENTS, "/a.ipynb", "b.ipynb"])
FILES = st.sampled_from(["a.ipynb", "b.ipynb", "d", "e"])
KERNEL_NAMES = (None, "light", "other")
PICKS = st.integers(0, 99)

WINDOW, PROGRAM = "window", "program"
"""The kinds of clients that open a document. A window sends a generated path."""

Key: TypeAlias = tuple[str, str]
"""The document and kernelspec whose requests may share a start."""


class Known(NamedTuple):
    """A session as reported to clients."""

    path: str | None
    name: str | None
    kernel_id: str

    @property
    def document(self) -> str | None:
        return None if self.path is None else self.path.strip("/")

    @property
    def named_document(self) -> str | None:
        return named_document(self.path, self.name, "notebook")


class StoreFails(NamedTuple):
    """The store fails in an operation, and may be down from then on."""

    operation: str
    fault: Fault
    goes_down: bool


class Interrupted(NamedTuple):
    """An event at the ``moment``-th await of the store or the kernels."""

    what: str
    moment: int
    pick: int


REMOVED, PUT_BACK = "the file is removed", "a backup is put back"
FORGOTTEN, UNDONE = "the owner is forgotten", "the owner is forgotten with all that it had"
LOSSES = (REMOVED, PUT_BACK, FORGOTTEN, UNDONE)
_STORED = "SELECT session_id FROM nbsessions_session WHERE scope = ?"


def back_up(path: Path) -> None:
    """Make a copy of the file."""
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(_backup(path))) as copy,
    ):
        source.backup(copy)


def _backup(path: Path) -> Path:
    return path.with_name("backup")


def lose(path: Path, what: str) -> None:
    """Remove data that was written to the file."""
    if what == REMOVED:
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
    elif what == PUT_BACK:
        if not _backup(path).exists():
            back_up(path)
        with (
            contextlib.closing(sqlite3.connect(_backup(path))) as copy,
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            copy.backup(target)
    else:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM nbsessions_owner")
            if what == UNDONE:
                connection.execute("DELETE FROM nbsessions_session")
                connection.execute("DELETE FROM nbsessions_intent")


HANG_UP, DEATH, CRASH = "the first client hangs up", "a kernel dies", "the server crashes"

Trouble: TypeAlias = StoreFails | Interrupted | None


def troubles(*operations: str) -> st.SearchStrategy[Trouble]:
    """Return a strategy: no trouble, a failure of one of these operations, or an interruption."""
    faults = st.sampled_from(Fault)
    fails = st.builds(StoreFails, st.sampled_from(operations), faults, st.booleans())
    what = st.sampled_from([HANG_UP, DEATH, CRASH])
    return st.none() | st.none() | fails | st.builds(Interrupted, what, st.integers(1, 12), PICKS)


class ServiceMachine(RuleBasedStateMachine):
    """``known`` has the sessions reported to clients, ``outside`` the kernels others started."""

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.provider = FakeKernelProvider()
        self.provider.before_stop = self._check_stop
        self.boots = 0
        self.known: dict[str, Known] = {}
        self.ended: set[str] = set()
        self.outside: set[str] = set()
        self.recent: dict[Key, str] = {}
        """Started kernels that may be shared."""
        self.doubtful: set[Key] = set()
        """The keys for which it is not known whether there is such a kernel."""
        self.violations: list[str] = []
        self.crashed: list[Bench] = []

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run the operation until it is complete."""
        return self.loop.run_until_complete(operation)

    async def _check_stop(self, kernel_id: str) -> None:
        if await self.bench.store.count_by_kernel(kernel_id):
            self.violations.append(f"kernel {kernel_id} is stopped while a session holds it")

    @initialize(tells=st.booleans())
    def begin(self, tells: bool) -> None:
        """Start the first server. ``tells`` is whether changes of kernels are noted."""
        self.provider.tells = tells
        self.open()

    def open(self, fails: str | None = None) -> None:
        """Start a server. ``fails`` is a store operation that fails at the first attempt."""
        self.boots += 1
        owner = make_owner(f"boot {self.boots}")
        self.provider.adopted = set(self.provider.running)
        self.bench = Bench(self._make_store(), self.provider, owner)
        if fails is not None:
            self.bench.faults.fail(fails)
            with contextlib.suppress(StoreUnavailable):
                # An operation that is not called, because nothing needs recovery, does not fail.
                self.run(self.bench.service.open())
                self.bench.faults.heal()
                self._opened()
                return
        self.run(self.bench.service.open())
        self._opened()

    def _opened(self) -> None:
        self.recent.clear()
        self.doubtful.clear()

    def _make_store(self) -> SessionStore:
        return make_store(self.kind, Path(self.folder.name))

    def teardown(self) -> None:
        try:
            self.run(self._come_to_rest())
            self._compare()
        finally:
            self.bench.service.close()
            for each in self.crashed:
                each.store.close()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()
            self.folder.cleanup()

    async def _come_to_rest(self) -> None:
        self.provider.die(*(self.outside - self._kernels()))
        await self.bench.rest()
        for document in DOCUMENTS:
            self._learn(await self.bench.create(document))
        await self.bench.service.stop()

    # Actions of clients

    @rule(
        document=st.sampled_from(DOCUMENTS),
        slash=st.sampled_from(["", "/"]),
        who=st.lists(st.sampled_from([WINDOW, PROGRAM]), min_size=1, max_size=3),
        kernel_name=st.sampled_from(KERNEL_NAMES),
        trouble=troubles("acquire", "commit", "attach"),
    )
    def open_at_once(
        self, document: str, slash: str, who: list[str], kernel_name: str | None, trouble: Trouble
    ) -> None:
        before, starts = dict(self.known), self.provider.starts
        key = (document, kernel_name or "light")
        shared = self._shared_kernel(key)
        requests = [opening(each, slash + document, kernel_name) for each in who]
        answers = self._attempt(trouble, *map(self._create, requests))
        started = self.provider.starts - starts
        failed = answers.count(None)
        assert started <= 1 + failed + (isinstance(trouble, Interrupted) and trouble.what == DEATH)
        if trouble is not None:
            self._doubt(key)
            return
        kernels: dict[str, set[str]] = {WINDOW: set(), PROGRAM: set()}
        for each, session in zip(who, answers, strict=True):
            assert session is not None
            kernels[each].add(session.kernel_id)
        existing = {each.kernel_id for each in before.values() if each.document == document}
        if existing:
            assert kernels.pop(PROGRAM) <= existing
        opened = set().union(*kernels.values())
        if not opened:
            assert started == 0
            return
        (kernel_id,) = opened
        if started == 0:
            of_document = [each for each in before.values() if each.named_document == document]
            assert kernel_id in {each.kernel_id for each in of_document}, "of another document"
        if key not in self.doubtful:
            assert started == (shared is None)
            assert shared in (None, kernel_id)
        self.doubtful.discard(key)
        self.recent[key] = kernel_id

    @rule(kernel_name=st.sampled_from(KERNEL_NAMES), trouble=troubles("acquire", "commit"))
    def create_without_a_path(self, kernel_name: str | None, trouble: Trouble) -> None:
        starts = self.provider.starts
        self._attempt(trouble, self._create(NewSession(path=None, kernel_name=kernel_name)))
        assert trouble is not None or self.provider.starts == starts + 1

    @rule(path=PATHS, pick=PICKS, trouble=troubles("attach"))
    def share(self, path: str, pick: int, trouble: Trouble) -> None:
        kernel_id = self._pick_kernel(pick)
        self._attempt(trouble, self._create(notebook(path, kernel_id=kernel_id)))

    @rule(
        pick=PICKS,
        path=PATHS | st.none(),
        name=st.sampled_from(["a.ipynb", "x"]),
        trouble=troubles("update"),
    )
    def give_a_path_then_a_name(
        self, pick: int, path: str | None, name: str, trouble: Trouble
    ) -> None:
        session_id = self._pick(pick)
        path = path or self.known[session_id].named_document or "a.ipynb"
        kernel_id = self.known[session_id].kernel_id
        self._attempt(trouble, self._update(session_id, path=path), concerns=[session_id])
        if session_id in self.known:
            self._attempt(None, self._update(session_id, name=name))
        else:
            assert self.provider.has_died(kernel_id)

    @rule(document=st.sampled_from(DOCUMENTS), path=PATHS)
    def save_as(self, document: str, path: str) -> None:
        for session_id, each in list(self.known.items()):
            if each.named_document == document:
                self._attempt(None, self._update(session_id, path=path))

    @rule(
        pick=PICKS,
        other=PICKS,
        to_new=st.booleans(),
        force=st.booleans(),
        trouble=troubles("acquire", "update", "finish_stop"),
    )
    def switch(self, pick: int, other: int, to_new: bool, force: bool, trouble: Trouble) -> None:
        session_id = self._pick(pick)
        change = {"kernel_name": "other"} if to_new else {"kernel_id": self._pick_kernel(other)}
        concerns = self._holders(session_id) if force else [session_id]
        update = self._update(session_id, force=force, **change)
        self._attempt(trouble, update, concerns=concerns)

    @rule(old=FILES, new=FILES, trouble=troubles("rename_document"))
    def rename(self, old: str, new: str, trouble: Trouble) -> None:
        concerns = [
            session_id
            for session_id, each in self.known.items()
            if each.document and is_within(each.document, old)
        ]
        self._attempt(trouble, self._rename(old, new), concerns=concerns)

    @rule(pick=PICKS, force=st.booleans(), trouble=troubles("delete", "finish_stop"))
    def delete(self, pick: int, force: bool, trouble: Trouble) -> None:
        session_id = self._pick(pick)
        concerns = self._holders(session_id) if force else [session_id]
        self._attempt(trouble, self._delete(session_id, force), concerns=concerns)

    @rule(
        operations=st.lists(
            st.tuples(
                st.sampled_from(["open", "share", "path", "switch", "rename", "delete"]),
                PICKS,
                PICKS,
                st.sampled_from(DOCUMENTS),
                FILES,
            ),
            min_size=2,
            max_size=5,
        )
    )
    def race(self, operations: list[tuple[str, int, int, str, str]]) -> None:
        # The result of the race is not determined, but the invariants must hold.
        clients, deleted = [], {}
        for number, (what, pick, other, document, file) in enumerate(operations):
            session_id, kernel_id = self._pick(pick), self._pick_kernel(other)
            clients.append(self._do(what, session_id, kernel_id, document, file, bool(other % 2)))
            if what == "delete":
                deleted[number] = session_id
        outcomes = self.run(self._work(Interrupted("nothing", 1, 0), clients))
        self._check_errors(outcomes)
        self._look_again()
        for number, session_id in deleted.items():
            assert outcomes[number] is not None or session_id not in self.known
        for document in {document for what, *_, document, _ in operations if what == "open"}:
            self._doubt((document, "light"))

    async def _do(
        self, what: str, session_id: str, kernel_id: str, document: str, file: str, flag: bool
    ) -> object:
        service = self.bench.service
        if what == "open":
            return await service.create(opening(PROGRAM if flag else WINDOW, document, None))
        if what == "share":
            return await service.create(notebook(document, kernel_id=kernel_id))
        if what == "path":
            return await service.update(session_id, SessionPatch(path=document))
        if what == "switch":
            patch = SessionPatch(kernel_id=kernel_id)
            return await service.update(session_id, patch, force=flag)
        if what == "rename":
            return await service.rename(document.partition("/")[0], file)
        return await service.delete(session_id, force=flag)

    # Events

    @rule()
    def a_kernel_is_started_by_others(self) -> None:
        request = start_request(token=str(uuid.uuid4()), session_id="of nobody")
        self.outside.add(self.run(self.provider.start(request)).kernel_id)

    @rule(pick=PICKS)
    def a_kernel_dies(self, pick: int) -> None:
        kernel_id = self.known[self._pick(pick)].kernel_id
        self.provider.die(kernel_id)
        self._forget_kernel(kernel_id)

    @rule(pick=PICKS, state=st.sampled_from(["busy", "idle"]))
    def a_kernel_says_something(self, pick: int, state: str) -> None:
        self.provider.say(self.known[self._pick(pick)].kernel_id, state)

    @rule(
        crashes=st.booleans(),
        kernels_survive=st.booleans(),
        visited=st.booleans(),
        fails=st.none() | st.sampled_from(["open", "find_orphans", "recover"]),
    )
    def the_server_is_started_again(
        self,
        crashes: bool,
        kernels_survive: bool,
        visited: bool = False,
        fails: str | None = None,
    ) -> None:
        if crashes:
            self.bench.interruption.crash()
            self.run(quiet())
            self.bench.crash()
            self.crashed.append(self.bench)
        else:
            self.run(self.bench.service.stop())
        if not kernels_survive or self.kind == "memory":
            self.provider.die(*self.provider.running)
            self._forget(*self.known)
        if not crashes:
            self.bench.service.close()
        if visited:
            self.another_server_visits()
        self.open(fails)

    @rule()
    def another_server_visits(self) -> None:
        """A server that cannot see the kernels opens the same file, and stops again."""
        if self.kind == "memory":
            return
        self.boots += 1
        provider = FakeKernelProvider("local:elsewhere")
        bench = Bench(self._make_store(), provider, make_owner(f"boot {self.boots}"))
        self.run(bench.service.open())
        assert self.run(bench.sessions()) == []
        session = self.run(bench.create("a.ipynb"))
        assert self.run(bench.sessions()) == [session]
        self.run(bench.service.stop())
        provider.die(session.kernel_id)
        bench.service.close()

    @rule(what=st.sampled_from(LOSSES), by_a_write=st.booleans())
    def the_store_loses_what_was_written(self, what: str, by_a_write: bool) -> None:
        """The file is removed or restored, or another server has removed this owner."""
        if self.kind == "memory":
            return
        lose(self.bench.store.path, what)
        self._compare()
        if by_a_write:
            self._attempt(None, self._create(NewSession(path=None)))
        else:
            self.run(self.bench.store.ensure_intact())
            self._compare()
        shown = read_rows(self.bench.store.path, _STORED, self.bench.owner.owner_id)
        assert {row["session_id"] for row in shown} == self.known.keys()

    @rule()
    def a_backup_is_made(self) -> None:
        if self.kind != "memory":
            back_up(self.bench.store.path)

    # Invariants

    @invariant()
    def nothing_is_lost_and_nothing_returns(self) -> None:
        if hasattr(self, "bench"):
            self._compare()

    def _compare(self) -> None:
        assert not self.violations
        listed = self.run(self.bench.listed())
        shown = self.run(self._shown())
        assert shown == self.known
        assert {each["id"] for each in listed} == shown.keys()
        assert not shown.keys() & self.ended
        with contextlib.suppress(StoreError):  # The file may be gone at this moment.
            missing = self.run(self.bench.service.find_missing([*self.known, *self.ended]))
            assert {session_id for session_id, _ in missing} == self.ended
        assert self.run(self._shown()) == shown, "a second list differs"

    @invariant()
    def the_ledger_is_balanced(self) -> None:
        counts = Counter(event for event, _ in self.provider.events)
        assert counts["start"] - counts["stop"] - counts["die"] == len(self.provider.running)
        self.outside &= self.provider.running
        if hasattr(self, "bench"):
            under_way = self.run(self.bench.open_intents())
            assert self._kernels() <= self.provider.running
            leftover = self.provider.running - self._kernels() - self.outside
            assert len(leftover) <= len(under_way), leftover

    # Clients

    async def _create(self, request: NewSession) -> Session:
        session, _ = await self.bench.service.create(request)
        return self._learn(session)

    async def _update(self, session_id: str, *, force: bool = False, **changes: str) -> Session:
        before = self.known[session_id].kernel_id
        patch = SessionPatch(**changes)
        session, _ = await self.bench.service.update(session_id, patch, force=force)
        self._learn(session)
        if session.kernel_id != before:
            self._let_go(before, force)
        return session

    async def _delete(self, session_id: str, force: bool) -> None:
        kernel_id = self.known[session_id].kernel_id
        await self.bench.service.delete(session_id, force=force)
        self._forget(session_id)
        self._let_go(kernel_id, force)

    async def _rename(self, old: str, new: str) -> None:
        await self.bench.service.rename(old, new)
        for session_id, each in self.known.items():
            if each.path is None or each.document is None or not is_within(each.document, old):
                continue
            document = new + each.document.removeprefix(old)
            was, is_now = (one.rpartition("/")[2] for one in (each.document, document))
            self.known[session_id] = Known(
                path="/" * each.path.startswith("/") + document,
                name=is_now if each.name == was else each.name,
                kernel_id=each.kernel_id,
            )

    def _attempt(
        self,
        trouble: Trouble,
        *clients: Coroutine[Any, Any, Session | None],
        concerns: Collection[str] = (),
    ) -> list[Session | None]:
        """Run clients concurrently, and return their answers, None for each that failed.

        After trouble, the sessions that are listed now replace ``known``. Apart from sessions
        reported to these clients, only the sessions in ``concerns`` may differ.
        """
        if isinstance(trouble, StoreFails):
            self.bench.faults.fail(trouble.operation, trouble.fault)
            self.bench.faults.down_after = trouble.operation if trouble.goes_down else None
        outcomes = self.run(self._work(trouble, clients))
        self.bench.faults.heal()
        self._check_errors(outcomes, trouble)
        answers = [each if isinstance(each, Session) else None for each in outcomes]
        if trouble is None:
            assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
        else:
            if isinstance(trouble, Interrupted) and trouble.what == CRASH:
                self.the_server_is_started_again(crashes=True, kernels_survive=True)
            self._compare_answers(trouble, concerns, answers.count(None))
            self._look_again()
        return answers

    def _check_errors(self, outcomes: Sequence[object], trouble: Trouble = None) -> None:
        for each in outcomes:
            if isinstance(each, Exception) and not isinstance(each, SessionError):
                raise each
            assert isinstance(trouble, StoreFails) or not isinstance(each, StoreError)

    async def _work(
        self, trouble: Trouble, clients: Sequence[Coroutine[Any, Any, T]]
    ) -> list[T | BaseException]:
        tasks = [asyncio.create_task(client) for client in clients]
        if isinstance(trouble, Interrupted):
            held = list(self.provider.list_running())
            actions = {
                HANG_UP: tasks[0].cancel,
                CRASH: self.bench.interruption.crash,
                DEATH: lambda: self.provider.die(*held[trouble.pick : trouble.pick + 1]),
            }
            action = actions.get(trouble.what, lambda: None)
            self.bench.interruption.at(trouble.moment, action)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(trouble, Interrupted):
            await quiet()
            self.bench.interruption.cancel()
            if trouble.what != CRASH:
                assert not await self.bench.open_intents(), "left half done"
        return outcomes

    def _compare_answers(self, trouble: Trouble, concerns: Collection[str], failed: int) -> None:
        if isinstance(trouble, StoreFails) and trouble.fault is Fault.UNAVAILABLE:
            failed = 0  # no write took effect
        there = self.run(self._shown())
        for session_id, each in self.known.items():
            may_differ = failed and session_id in concerns
            if not (may_differ or self.provider.has_died(each.kernel_id)):
                assert there.get(session_id) == each, "it is not as a client was answered"
        assert len(there.keys() - self.known.keys()) <= failed

    def _look_again(self) -> None:
        there = self.run(self._shown())
        self.ended |= self.known.keys() - there.keys()
        self.known = there

    # Helpers

    def _pick(self, pick: int) -> str:
        # This is not a precondition, because the sessions that a race leaves vary between runs.
        if not self.known:
            self._attempt(None, self._create(NewSession(path=None)))
        return list(self.known)[pick % len(self.known)]

    def _pick_kernel(self, pick: int) -> str:
        kernels = [*self._kernels(), *self.outside] or [self.known[self._pick(0)].kernel_id]
        return kernels[pick % len(kernels)]

    def _kernels(self) -> set[str]:
        return {each.kernel_id for each in self.known.values()}

    def _holders(self, session_id: str) -> list[str]:
        """Return the ids of the sessions that have the same kernel."""
        kernel_id = self.known[session_id].kernel_id
        return [key for key, each in self.known.items() if each.kernel_id == kernel_id]

    def _shared_kernel(self, key: Key) -> str | None:
        """Return the kernel that a client must get if it opens the document now."""
        kernel_id = self.recent.get(key)
        held = {each.kernel_id for each in self.known.values() if each.named_document == key[0]}
        return kernel_id if kernel_id in held else None

    def _doubt(self, key: Key) -> None:
        self.recent.pop(key, None)
        self.doubtful.add(key)

    def _learn(self, session: Session) -> Session:
        assert session.session_id not in self.ended
        self.known[session.session_id] = _known(session)
        return session

    def _forget(self, *session_ids: str) -> None:
        for session_id in session_ids:
            self.known.pop(session_id, None)
            self.ended.add(session_id)

    def _let_go(self, kernel_id: str, force: bool) -> None:
        if force:
            self._forget_kernel(kernel_id)

    def _forget_kernel(self, kernel_id: str) -> None:
        holders = [key for key, each in self.known.items() if each.kernel_id == kernel_id]
        self._forget(*holders)

    async def _shown(self) -> dict[str, Known]:
        return {each.session_id: _known(each) for each in await self.bench.sessions()}


def _known(session: Session) -> Known:
    return Known(session.path, session.name, session.kernel_id)


def opening(who: str, path: str, kernel_name: str | None) -> NewSession:
    """Return the request that a window or a program sends when it opens a document."""
    folder, slash, name = path.rpartition("/")
    if who == WINDOW:
        path = f"{folder}{slash}{uuid.uuid4()}"
    return NewSession(path=path, name=name, type="notebook", kernel_name=kernel_name)


async def quiet() -> None:
    """Wait until no other task is running."""
    deadline = asyncio.get_running_loop().time() + 30
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        assert asyncio.get_running_loop().time() < deadline, tasks
        await asyncio.wait(tasks, timeout=1)


@pytest.mark.parametrize(("kind", "examples"), [("memory", 200), ("sqlite", 60)])
def test_the_service_agrees_with_the_model(
    kind: str, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleanup, "_FIRST_RETRY", 0.002)
    monkeypatch.setattr(transaction, "SHARED_FOR", LONGEST_LEASE)
    machine: type[ServiceMachine] = type(f"{kind}Machine", (ServiceMachine,), {"kind": kind})
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=40,
        suppress_health_check=list(HealthCheck),
        # Do not shrink, because that would repeat the wait for each retry hundreds of times.
        phases=[Phase.generate],
    )
    case().runTest()
