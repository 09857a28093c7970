"""Wraps a session store so that chosen operations fail or wait."""

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any, cast

from nbsessions.errors import StoreError, StoreUnavailable, StoreUncertain
from nbsessions.stores.base import SessionStore
from support.interruptions import Interruption
from support.provider import Gate

READS = (
    "list_sessions",
    "find_session",
    "list_by_document",
    "list_by_kernel",
    "find_intent",
    "list_intents",
    "count_by_kernel",
    "find_endings",
    "find_orphans",
    "find_unserved",
)
WRITES = (
    "open",
    "heartbeat",
    "ensure_intact",
    "acquire",
    "commit",
    "renew",
    "drop_start",
    "attach",
    "insert",
    "update",
    "rename_document",
    "delete",
    "finish_stop",
    "end_sessions",
    "end_kernel",
    "claim",
    "recover",
    "take_unserved",
)


class Fault(enum.Enum):
    """How an operation fails."""

    UNAVAILABLE = enum.auto()
    """Nothing was written."""
    UNCERTAIN_LOST = enum.auto()
    """The commit was cut short and was not kept."""
    UNCERTAIN_KEPT = enum.auto()
    """The commit was cut short and was kept."""


class StoreFaults:
    """Wraps a store and causes the faults that a test asks for."""

    def __init__(self, inner: SessionStore, interruption: Interruption) -> None:
        self.inner = inner
        self._interruption = interruption
        self.calls: Counter[str] = Counter()
        self.down = False
        """Whether nothing can be read or written."""
        self.down_after: str | None = None
        """The operation after which the store goes down."""
        self.abandoned = False
        """Whether the service ends without closing its store, as in a crash."""
        self._faults: dict[str, Fault] = {}
        self._gates: dict[tuple[str, bool], Gate] = {}

    @property
    def store(self) -> SessionStore:
        """The store with faults, for the code under test."""
        return cast(SessionStore, self)

    def fail(self, operation: str, fault: Fault = Fault.UNAVAILABLE) -> None:
        """Make the next call of the operation fail."""
        assert operation in READS + WRITES
        self._faults[operation] = fault

    def hold(self, operation: str, *, done: bool = False) -> Gate:
        """Make the operation wait at the returned gate, before it starts or when it is done."""
        assert operation in READS + WRITES
        gate = self._gates[operation, done] = Gate()
        return gate

    def heal(self) -> None:
        """Cause no more faults."""
        self.down = False
        self.down_after = None
        self._faults.clear()

    def close(self, running: Collection[str] = ()) -> None:
        """Close the store, unless it is abandoned."""
        if not self.abandoned:
            self.inner.close(running)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if name in READS + WRITES:
            return functools.partial(self._perform, name, attribute)
        return attribute

    async def _perform(
        self, name: str, operation: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> Any:
        self.calls[name] += 1
        await self._interruption.moment()
        await self._wait(name, done=False)
        fault = Fault.UNAVAILABLE if self.down else self._faults.pop(name, None)
        if name == self.down_after:
            self.down = True
        if fault in (Fault.UNAVAILABLE, Fault.UNCERTAIN_LOST):
            raise _error(fault, name)
        result = await operation(*args, **kwargs)
        await self._wait(name, done=True)
        await self._interruption.moment()
        if fault is not None:
            raise _error(fault, name)
        return result

    async def _wait(self, name: str, *, done: bool) -> None:
        gate = self._gates.get((name, done))
        if gate is not None:
            await gate.enter()


def _error(fault: Fault, name: str) -> StoreError:
    if fault is Fault.UNAVAILABLE:
        return StoreUnavailable(f"{name} was made to fail")
    return StoreUncertain(f"{name} was cut short")
