"""The service beside a plain model, through failures and restarts: no leak, no twin, no loss."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from nbsessions.errors import SessionError, SessionNotFound, StoreError
from nbsessions.models import Session, SessionPatch
from support.faults import Fault
from support.provider import FakeKernelProvider
from support.services import Bench, make_owner, make_store

T = TypeVar("T")

PATHS = st.sampled_from(["a.ipynb", "/a.ipynb", "b.ipynb", "d/c.ipynb"])
PICKS = st.integers(0, 99)


def faults(*operations: str) -> st.SearchStrategy[tuple[str, Fault, bool] | None]:
    """Return which operation fails, how, and whether the store is down afterwards."""
    operation = st.sampled_from(operations)
    return st.none() | st.tuples(operation, st.sampled_from(Fault), st.booleans())


class ServiceMachine(RuleBasedStateMachine):
    """``known`` holds what clients were answered: session id → (path, kernel id)."""

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.provider = FakeKernelProvider()
        self.provider.before_stop = self._check_stop
        self.boots = 0
        self.known: dict[str, tuple[str | None, str]] = {}
        self.deleted: set[str] = set()
        self.violations: list[str] = []
        self.crashed: list[Bench] = []

    def run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run the operation to its end."""
        return self.loop.run_until_complete(operation)

    async def _check_stop(self, kernel_id: str) -> None:
        if await self.bench.store.count_holders(kernel_id):
            self.violations.append(f"kernel {kernel_id} is stopped while a session holds it")

    @initialize()
    def open(self) -> None:
        self.boots += 1
        owner = make_owner(f"boot {self.boots}")
        self.bench = Bench(make_store(self.kind, Path(self.folder.name)), self.provider, owner)
        self.run(self.bench.service.open())

    def teardown(self) -> None:
        try:
            self.bench.faults.heal()
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
        await self.bench.service.list_sessions()
        # Each failure that a retry ran into has doubled its delay.
        await self.bench.rest(timeout=30)
        for path in ("a.ipynb", "b.ipynb", "d/c.ipynb"):
            await self.bench.create(path)
        self.known = await self._stored()

    # What clients do

    @rule(path=PATHS, fault=faults("acquire", "commit"))
    def create(self, path: str, fault: tuple[str, Fault, bool] | None) -> None:
        self._attempt(self._create_twice(path), fault)

    async def _create_twice(self, path: str) -> None:
        # Two at once: they may fail, but never differ.
        starts = self.provider.starts
        answers = await asyncio.gather(
            self.bench.create(path), self.bench.create(path), return_exceptions=True
        )
        sessions = [each for each in answers if isinstance(each, Session)]
        assert len({(each.session_id, each.kernel_id) for each in sessions}) <= 1
        assert self.provider.starts - starts <= len(answers) - len(sessions) + 1
        for session in sessions:
            self._learn(session)
        for each in answers:
            if isinstance(each, BaseException):
                raise each

    @rule(path=PATHS, pick=PICKS, fault=faults("attach"))
    @precondition(lambda self: self.known)
    def share(self, path: str, pick: int, fault: tuple[str, Fault, bool] | None) -> None:
        _, kernel_id = self.known[self._pick(pick)]
        self._attempt(self._share(path, kernel_id), fault)

    async def _share(self, path: str, kernel_id: str) -> None:
        self._learn(await self.bench.create(path, kernel_id=kernel_id))

    @rule(
        pick=PICKS,
        other=PICKS,
        path=PATHS,
        what=st.sampled_from(["path", "kernel_name", "kernel_id"]),
        force=st.booleans(),
        fault=faults("acquire", "update", "finish_stop"),
    )
    @precondition(lambda self: self.known)
    def update(
        self,
        pick: int,
        other: int,
        path: str,
        what: str,
        force: bool,
        fault: tuple[str, Fault, bool] | None,
    ) -> None:
        session_id = self._pick(pick)
        kernel_id = self.known[self._pick(other)][1]
        value = {"path": path, "kernel_name": "other", "kernel_id": kernel_id}[what]
        self._attempt(self._update(session_id, SessionPatch(**{what: value}), force), fault)

    async def _update(self, session_id: str, patch: SessionPatch, force: bool) -> None:
        old_kernel = self.known[session_id][1]
        session, _ = await self.bench.service.update(session_id, patch, force=force)
        self._learn(session)
        if force and session.kernel_id != old_kernel:
            self._forget_kernel(old_kernel)

    @rule(pick=PICKS, force=st.booleans(), fault=faults("delete", "finish_stop"))
    @precondition(lambda self: self.known)
    def delete(self, pick: int, force: bool, fault: tuple[str, Fault, bool] | None) -> None:
        self._attempt(self._delete(self._pick(pick), force), fault)

    async def _delete(self, session_id: str, force: bool) -> None:
        await self.bench.service.delete(session_id, force=force)
        _, kernel_id = self.known.pop(session_id)
        self.deleted.add(session_id)
        if force:
            self._forget_kernel(kernel_id)

    # What happens to them

    @rule(pick=PICKS)
    @precondition(lambda self: len(self.known) > 1)
    def a_kernel_dies(self, pick: int) -> None:
        _, kernel_id = self.known[self._pick(pick)]
        self.provider.die(kernel_id)
        self._forget_kernel(kernel_id)

    @rule()
    @precondition(lambda self: len(self.known) > 2)
    def the_server_restarts_and_its_kernels_with_it(self) -> None:
        self.run(self.bench.service.stop())
        self.provider.die(*self.provider.held)
        self.bench.service.close()
        self.deleted |= self.known.keys()
        self.known.clear()
        self.open()

    @rule()
    @precondition(lambda self: self.kind == "sqlite" and self.known)
    def the_server_restarts_and_its_kernels_survive(self) -> None:
        self.run(self.bench.service.stop())
        self.bench.service.close()
        self.open()

    @rule()
    @precondition(lambda self: self.kind == "sqlite" and self.known)
    def the_server_crashes_and_its_kernels_survive(self) -> None:
        # All but those that nothing names yet: such kernels die with their server.
        named = {intent.kernel_id for intent in self.run(self.bench.open_intents())}
        named |= {kernel_id for _, kernel_id in self.known.values()}
        self.provider.die(*(self.provider.held - named))
        self.bench.faults.abandoned = True
        self.bench.service.close()
        self.crashed.append(self.bench)
        self.open()

    # What holds after every step

    @invariant()
    def nothing_is_lost_and_nothing_returns(self) -> None:
        if hasattr(self, "bench"):
            self._compare()

    def _compare(self) -> None:
        assert not self.violations
        shown = self.run(self._shown())
        assert shown == self.known
        assert not shown.keys() & self.deleted
        assert self.run(self._shown()) == shown, "a second list differs"

    @invariant()
    def the_ledger_is_balanced(self) -> None:
        counts = Counter(event for event, _ in self.provider.events)
        assert counts["start"] - counts["stop"] - counts["die"] == len(self.provider.held)
        if hasattr(self, "bench"):
            kernels = {kernel_id for _, kernel_id in self.known.values()}
            assert kernels <= self.provider.held
            leftover = self.provider.held - kernels
            assert len(leftover) <= len(self.run(self.bench.open_intents())), leftover

    # Pieces

    def _pick(self, pick: int) -> str:
        return list(self.known)[pick % len(self.known)]

    def _learn(self, session: Session) -> None:
        assert session.session_id not in self.deleted
        self.known[session.session_id] = (session.path, session.kernel_id)

    def _forget_kernel(self, kernel_id: str) -> None:
        for session_id, (_, held) in list(self.known.items()):
            if held == kernel_id:
                del self.known[session_id]
                self.deleted.add(session_id)

    def _attempt(
        self, operation: Coroutine[Any, Any, None], fault: tuple[str, Fault, bool] | None
    ) -> None:
        """Run what a client does. Where the answer is an error, look what has become of it."""
        if fault is not None:
            name, how, goes_down = fault
            self.bench.faults.fail(name, how)
            self.bench.faults.down_after = name if goes_down else None
        try:
            self.run(operation)
        except StoreError:
            assert fault is not None
        except SessionNotFound as error:
            raise AssertionError("a session that was acknowledged is missing") from error
        except SessionError:
            pass
        finally:
            self.bench.faults.heal()
        if fault is not None:
            self._look_again(fault[1])

    def _look_again(self, fault: Fault) -> None:
        stored = self.run(self._shown())
        if fault is Fault.UNAVAILABLE:
            assert self.known.items() <= stored.items(), "nothing was to be written"
        self.deleted |= self.known.keys() - stored.keys()
        self.known = stored

    async def _shown(self) -> dict[str, tuple[str | None, str]]:
        return {
            each.session_id: (each.path, each.kernel_id) for each in await self.bench.sessions()
        }

    async def _stored(self) -> dict[str, tuple[str | None, str]]:
        sessions = await self.bench.store.list_sessions()
        return {each.session_id: (each.path, each.kernel_id) for each in sessions}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_the_service_agrees_with_the_model(kind: str) -> None:
    machine: type[ServiceMachine] = type(f"{kind}Machine", (ServiceMachine,), {"kind": kind})
    case = machine.TestCase
    case.settings = settings(
        max_examples=25,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        # Shrinking would wait for every retry again, hundreds of times.
        phases=[Phase.generate],
    )
    case().runTest()
