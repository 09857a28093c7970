"""Compares each store with a simple model after every step."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from nbsessions.errors import (
    KernelConflict,
    SessionError,
    SessionNotFound,
    StartInProgress,
    StartLost,
)
from nbsessions.models import Changes, EndReason, Session, Verb
from nbsessions.stores.base import START_LEASE, SessionStore
from nbsessions.stores.sqlite import database
from support.stores import NAMESPACE, OTHER_NAMESPACE, Stores, ids, recover
from support.values import LAPSED, make_id, make_owner, make_session, make_start, to_kernel

T = TypeVar("T")

PATHS = st.sampled_from(["a", "/a", "b", "b/", "c/d", None])
KERNELS = st.sampled_from(["k1", "k2", "k3", "k4"])
PICK = st.integers(min_value=0, max_value=7)
KEYS = ("session_id", "path", "name", "type", "kernel_id", "kernel_name")


class Model:
    """The expected contents: sessions by age, and (verb, document, kernel) by token.

    ``endings`` has the reason of each session that ended with its kernel.
    """

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.intents: dict[str, tuple[Verb, str | None, str | None]] = {}
        self.lapsed: set[str] = set()
        self.endings: dict[str, EndReason] = {}

    def oldest(self, document: str | None) -> Session | None:
        found = [s for s in self.sessions.values() if s.document == document is not None]
        return found[0] if found else None

    def holders(self, kernel_id: str) -> list[str]:
        return [key for key, each in self.sessions.items() if each.kernel_id == kernel_id]

    def is_unsettled(self, kernel_id: str) -> bool:
        return any(kernel == kernel_id for _, _, kernel in self.intents.values())

    def claim(self, kernel_id: str) -> bool:
        """Return whether a start may use the kernel id."""
        of_it = {verb for verb, _, kernel in self.intents.values() if kernel == kernel_id}
        return not self.holders(kernel_id) and of_it <= {Verb.ENDED}

    def release(self, kernel_id: str, token: str, force: bool) -> str | None:
        others = self.holders(kernel_id)
        if others and not force:
            return None
        for session_id in others:
            del self.sessions[session_id]
        self.intents[token] = (Verb.STOP, None, kernel_id)
        return kernel_id


class StoreMachine(RuleBasedStateMachine):
    """A store, its model, and another store in another namespace of the same file."""

    kind = "memory"
    counts_all = True
    """Whether each write that does not fail raises the revision."""

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.is_local = database.is_local  # type: ignore[attr-defined]
        database.is_local = lambda folder: self.kind == "sqlite-wal"  # type: ignore[attr-defined,misc]
        self.loop = asyncio.new_event_loop()
        self.stores = Stores(self.kind, self.folder / "sessions.db")
        self.model = Model()
        self.runs = 1
        self.store: SessionStore = self.do(self.stores.open())
        bystander = make_owner("bystander")
        self.bystander = self.do(self.stores.open(bystander, namespace=OTHER_NAMESPACE))
        self.do(self.bystander.insert(make_session("a", scope="bystander", kernel_id="other")))
        self.do(self.bystander.acquire(make_start("b", scope="bystander")))
        self.others = self.of_bystander()
        self.revision = 0
        self.wrote = False
        self.forgotten: set[str] = set()
        """Sessions that were inserted. Some of them were deleted, for no reason that is known."""

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.stores.close()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()
            shutil.rmtree(self.folder)
            database.is_local = self.is_local  # type: ignore[attr-defined]

    @property
    def scope(self) -> str:
        return f"owner-{self.runs}"

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def write(self, coroutine: Coroutine[Any, Any, T]) -> T:
        wrote, self.wrote = self.wrote, True
        try:
            return self.do(coroutine)
        except StartLost:
            raise  # It has added a 'stop' intent.
        except SessionError:
            self.wrote = wrote
            raise

    def pick(self, number: int) -> str:
        """Return the id of an existing session, or an unknown id."""
        return [*self.model.sessions, "unknown"][number % (len(self.model.sessions) + 1)]

    def pick_token(self, number: int) -> str:
        return [*self.model.intents, "unknown"][number % (len(self.model.intents) + 1)]

    # Rules

    @rule(path=PATHS, kernel_id=st.none() | KERNELS, lapsed=st.booleans())
    def acquire(self, path: str | None, kernel_id: str | None, lapsed: bool) -> None:
        model, document = self.model, None if path is None else path.strip("/")
        lease = LAPSED if lapsed else START_LEASE
        start = make_start(document, kernel_id=kernel_id, scope=self.scope)
        existing = model.oldest(document)
        running = [
            token
            for token, (verb, of, _) in model.intents.items()
            if verb is Verb.START and of == document is not None
        ]
        if existing is not None:
            found = self.write(self.store.acquire(start, lease=lease))
            assert found is not None
            assert found.session_id == existing.session_id
        elif kernel_id is not None and not model.claim(kernel_id):
            with pytest.raises(KernelConflict):
                self.write(self.store.acquire(start, lease=lease))
        elif any(token not in model.lapsed for token in running):
            with pytest.raises(StartInProgress):
                self.write(self.store.acquire(start, lease=lease))
        else:
            assert self.write(self.store.acquire(start, lease=lease)) is None
            ended = [t for t, (_, _, k) in model.intents.items() if k == kernel_id is not None]
            for token in ended:
                del model.intents[token]
            for token in running:
                model.intents[token] = (Verb.LOST, *model.intents[token][1:])
            model.intents[start.token] = (Verb.START, document, kernel_id)
            if lapsed:
                model.lapsed.add(start.token)

    @rule(number=PICK, path=PATHS)
    def commit(self, number: int, path: str | None) -> None:
        model, token = self.model, self.pick_token(number)
        verb, _, kernel_id = model.intents.get(token, (None, None, None))
        if verb not in (Verb.START, Verb.LOST, None):
            return
        token = make_id() if verb is None else token
        session = make_session(path, scope=self.scope, kernel_id=kernel_id)
        winner = model.oldest(session.document)
        if verb is Verb.START and winner is None:
            self.write(self.store.commit(token, session))
            del model.intents[token]
            model.sessions[session.session_id] = session
            return
        with pytest.raises(StartLost) as lost:
            self.write(self.store.commit(token, session))
        found = lost.value.winner
        assert (found and found.session_id) == (winner and winner.session_id)
        model.intents[token] = (Verb.STOP, None, session.kernel_id)

    @rule(number=PICK)
    def drop_start(self, number: int) -> None:
        token = self.pick_token(number)
        self.write(self.store.drop_start(token))
        if self.model.intents.get(token, (None,))[0] in (Verb.START, Verb.LOST):
            del self.model.intents[token]

    @rule(path=PATHS, kernel_id=KERNELS, attach=st.booleans(), again=st.booleans())
    def insert(self, path: str | None, kernel_id: str, attach: bool, again: bool) -> None:
        session_id = next(iter(self.model.endings), None) if again else None
        session = make_session(path, kernel_id=kernel_id, scope=self.scope, session_id=session_id)
        existing = self.model.oldest(session.document)
        verb = self.store.attach if attach else self.store.insert
        if attach and existing is not None:
            assert self.write(verb(session)).session_id == existing.session_id
        elif self.model.is_unsettled(kernel_id):
            with pytest.raises(KernelConflict):
                self.write(verb(session))
        else:
            self.write(verb(session))
            self.model.sessions[session.session_id] = session
            self.model.endings.pop(session.session_id, None)
            self.forgotten.add(session.session_id)

    @rule(number=PICK, path=st.sampled_from(["a", "/b", "c/d"]))
    def move(self, number: int, path: str) -> None:
        session_id = self.pick(number)
        write = self.store.update(session_id, Changes(path=path), stop_token=make_id())
        if session_id not in self.model.sessions:
            with pytest.raises(SessionNotFound):
                self.write(write)
            return
        assert self.write(write).session.path == path
        before = self.model.sessions[session_id]
        self.model.sessions[session_id] = replace(before, path=path)

    @rule(
        old=st.sampled_from(["a", "b", "c", "c/d", "d"]),
        new=st.sampled_from(["a", "b/c", "c", "d", "e"]),
    )
    def rename(self, old: str, new: str) -> None:
        renamed = self.write(self.store.rename_document(old, new))
        model, top, moved = self.model, old.split("/"), []
        for session_id, session in model.sessions.items():
            parts = (session.document or "").split("/")
            if parts[: len(top)] == top and old != new:
                document = "/".join([new, *parts[len(top) :]])
                path = session.path.replace(session.document, document)  # type: ignore[union-attr,arg-type]
                model.sessions[session_id] = replace(session, path=path)
                moved.append((session_id, path))
        assert [(session.session_id, session.path) for session in renamed] == moved

    @rule(number=PICK, kernel_id=KERNELS, force=st.booleans())
    def change_kernel(self, number: int, kernel_id: str, force: bool) -> None:
        model, session_id, token = self.model, self.pick(number), make_id()
        write = self.store.update(
            session_id, to_kernel(kernel_id, kernel_name="R"), stop_token=token, force=force
        )
        if session_id not in model.sessions:
            with pytest.raises(SessionNotFound):
                self.write(write)
        elif model.is_unsettled(kernel_id):
            with pytest.raises(KernelConflict):
                self.write(write)
        else:
            before = model.sessions[session_id]
            model.sessions[session_id] = replace(before, kernel_id=kernel_id, kernel_name="R")
            released = None
            if before.kernel_id != kernel_id:
                released = model.release(before.kernel_id, token, force)
            assert self.write(write).kernel_id == released

    @rule(number=PICK, force=st.booleans())
    def delete(self, number: int, force: bool) -> None:
        session_id, token = self.pick(number), make_id()
        write = self.store.delete(session_id, stop_token=token, force=force)
        session = self.model.sessions.pop(session_id, None)
        if session is None:
            with pytest.raises(SessionNotFound):
                self.write(write)
        else:
            released = self.model.release(session.kernel_id, token, force)
            assert self.write(write).kernel_id == released

    @rule(number=PICK)
    def finish_stop(self, number: int) -> None:
        token = self.pick_token(number)
        self.write(self.store.finish_stop(token))
        intent = self.model.intents.get(token)
        if intent is not None and intent[0] is Verb.STOP:
            self.model.intents[token] = (Verb.ENDED, *intent[1:])

    @rule(kernel_ids=st.sets(KERNELS, max_size=2))
    def end_sessions(self, kernel_ids: set[str]) -> None:
        gone = [key for kernel_id in kernel_ids for key in self.model.holders(kernel_id)]
        ended = self.write(self.store.end_sessions([self.model.sessions[key] for key in gone]))
        assert {session.session_id for session in ended} == set(gone)
        for session_id in gone:
            del self.model.sessions[session_id]
            self.model.endings[session_id] = EndReason.ENDED

    @rule(kernel_id=KERNELS, seen=st.booleans())
    def end_kernel(self, kernel_id: str, seen: bool) -> None:
        token, holders = make_id(), self.model.holders(kernel_id)
        session_ids = holders if seen else [*holders, "unknown"]
        ended = self.write(self.store.end_kernel(kernel_id, session_ids, stop_token=token))
        if not seen or self.model.is_unsettled(kernel_id):
            assert ended is None
        else:
            assert ended is not None
            assert sorted(session.session_id for session in ended) == sorted(holders)
            self.model.release(kernel_id, token, force=True)
            self.model.endings.update(dict.fromkeys(holders, EndReason.ENDED))

    # Invariants

    @invariant()
    def revisions_rise_with_writes_and_not_with_reads(self) -> None:
        if not hasattr(self, "store") or self.kind == "memory":
            return
        revision = self.stores.revision()
        # Not every store has to count writes that have not changed sessions.
        risen = revision > self.revision if self.counts_all else revision >= self.revision
        assert risen if self.wrote else revision == self.revision
        self.revision, self.wrote = revision, False
        self.both_agree()
        assert self.stores.revision() == revision

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        listed = self.do(self.store.list_sessions())
        expected = list(self.model.sessions.values())
        assert [tuple(getattr(s, key) for key in KEYS) for s in listed] == [
            tuple(getattr(s, key) for key in KEYS) for s in expected
        ]
        assert all(session.scope == self.scope for session in listed)
        for session in listed:
            assert self.do(self.store.find_session(session.session_id)) == session
        for document in ("a", "b", "c/d", "e"):
            found = self.do(self.store.list_by_document(document))
            assert ids(found) == ids([each for each in expected if each.document == document])
        for kernel_id in ("k1", "k2", "k3", "k4"):
            holders = self.do(self.store.count_by_kernel(kernel_id))
            assert holders == len(self.model.holders(kernel_id))
        intents = self.do(self.store.list_intents())
        assert {i.token: (i.verb, i.document, i.kernel_id) for i in intents} == self.model.intents

    @invariant()
    def it_is_known_why_sessions_are_gone(self) -> None:
        if not hasattr(self, "store"):
            return
        asked = {*self.model.endings, *self.model.sessions, *self.forgotten}
        found = self.do(self.store.find_endings(asked))
        assert {key: ending.reason for key, ending in found.items()} == self.model.endings
        assert self.do(self.bystander.find_endings(asked)) == {}

    @invariant()
    def the_bystander_is_untouched(self) -> None:
        if hasattr(self, "store"):
            assert self.of_bystander() == self.others

    def of_bystander(self) -> list[Any]:
        return [
            list(self.do(self.bystander.list_sessions())),
            list(self.do(self.bystander.list_intents())),
            self.kind == "memory" or self.stores.revision(OTHER_NAMESPACE),
        ]


class DurableMachine(StoreMachine):
    """Rules that apply only to a store that outlives its process."""

    @rule(number=PICK, lost=PICK)
    def another_owner_takes_over(self, number: int, lost: int) -> None:
        """Stop with some kernels running, start again, and adopt the remaining sessions.

        Some of the kernels are lost in between.
        """
        kernel_ids = {each.kernel_id for each in self.model.sessions.values()}
        kernel_ids |= {each for _, _, each in self.model.intents.values() if each is not None}
        held = sorted(kernel_ids)[:number]
        self.store.close(held)
        self.runs += 1
        self.store = self.write(self.stores.open(make_owner(self.scope)))
        orphans = self.do(self.store.find_orphans())
        kept = {
            key: replace(session, scope=self.scope)
            for key, session in self.model.sessions.items()
            if session.kernel_id in held
        }
        assert [session.session_id for session in orphans.sessions] == list(kept)
        open_intents = {
            token for token, (_, _, kernel_id) in self.model.intents.items() if kernel_id in held
        }
        assert {intent.token for intent in orphans.intents} == open_intents
        endings = self.model.endings
        stopped = self.model.sessions.keys() - kept.keys()
        endings |= dict.fromkeys(stopped, EndReason.STOPPED)
        for session_id in list(kept)[:lost]:
            del kept[session_id]
            endings[session_id] = EndReason.DIED
        removed = self.write(recover(self.store, orphans, list(kept)))
        assert len(orphans.sessions) - len(removed) == len(kept)
        self.model = Model()
        self.model.sessions, self.model.endings = kept, endings

    @invariant()
    def the_cached_list_equals_a_fresh_one(self) -> None:
        if hasattr(self, "store"):
            fresh = self.stores.rows(
                """SELECT session_id, path, name, type, kernel_id, kernel_name, seq
                FROM nbsessions_session WHERE namespace = ? AND scope = ? ORDER BY seq""",
                NAMESPACE,
                self.scope,
            )
            listed = self.do(self.store.list_sessions())
            assert fresh == [tuple(getattr(s, key) for key in (*KEYS, "seq")) for s in listed]


class WALMachine(DurableMachine):
    """A file in WAL mode."""

    kind = "sqlite-wal"


class RollbackMachine(DurableMachine):
    """A file that cannot be in WAL mode."""

    kind = "sqlite-rollback"


class PostgresMachine(DurableMachine):
    """A database in PostgreSQL."""

    kind = "postgres"
    counts_all = False


SETTINGS = settings(max_examples=25, stateful_step_count=25)

for _machine in (StoreMachine, WALMachine, RollbackMachine, PostgresMachine):
    _machine.TestCase.settings = SETTINGS

TestMemory = StoreMachine.TestCase
TestSQLiteWAL = WALMachine.TestCase
TestSQLiteRollback = RollbackMachine.TestCase
TestPostgres = PostgresMachine.TestCase
