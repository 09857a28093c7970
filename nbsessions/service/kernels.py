"""Asks the kernel provider for the state of the kernels of sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nbsessions.errors import KernelNotFound, KernelsUnavailable
from nbsessions.kernels.base import KernelProvider
from nbsessions.models import Kernel, KernelModel, KernelModels, LiveSession, Session

UNKNOWN = "unknown"
"""The execution_state of kernels of which it is not known whether they are alive."""


class SessionKernels:
    """Tells which kernels are alive, dead or unknown, and pairs sessions with kernel models."""

    def __init__(self, provider: KernelProvider) -> None:
        self._provider = provider
        self._changing: Counter[str] = Counter()

    # One kernel

    def addressable(self, kernel_id: str | None) -> str | None:
        """Return the id if ``/api/kernels/ID`` can address it, else None."""
        return kernel_id if kernel_id and self._provider.can_address(kernel_id) else None

    async def find(self, kernel_id: str) -> Kernel | None:
        """Return the kernel, unless it is dead. Raises KernelsUnavailable if nothing is known."""
        await self._provider.wait_for_start(kernel_id)
        models = await self._provider.models([kernel_id])
        if models.is_dead(kernel_id):
            return None
        return self._kernel(kernel_id, models.alive.get(kernel_id) or models.unknown[kernel_id])

    async def get(self, kernel_id: str) -> Kernel:
        """Return the kernel, which is alive.

        Raises KernelNotFound when it is dead, and KernelsUnavailable when its state is unknown.
        """
        await self._provider.wait_for_start(kernel_id)
        models = await self._provider.models([kernel_id])
        if models.is_dead(kernel_id):
            raise KernelNotFound(kernel_id)
        return self._kernel(kernel_id, models.alive.get(kernel_id))

    def _kernel(self, kernel_id: str, model: KernelModel | None) -> Kernel:
        if model is None:
            raise KernelsUnavailable(f"It is not known whether kernel {kernel_id} is alive")
        return Kernel(
            kernel_id=kernel_id, kernel_name=model.get("name"), provider=self._provider.name
        )

    async def may_live(self, kernel_id: str) -> bool:
        """Return whether the kernel is alive or unknown, rather than dead."""
        return not (await self._provider.models([kernel_id])).is_dead(kernel_id)

    # The kernels of sessions

    async def is_dead(self, kernel: Session | Kernel) -> bool:
        """Return whether the kernel, or that of the session, is dead."""
        return self._has_died(kernel, await self._provider.models([kernel.kernel_id]))

    async def pair(
        self, sessions: Sequence[Session]
    ) -> Iterable[tuple[Session, KernelModel | None]]:
        """Pair each session with the model of its kernel, or with None if the kernel is dead.

        A kernel is dead when the provider that the session names says so. If a kernel is
        unknown, its last known model is given, with the execution_state "unknown".
        """
        kernel_ids = [session.kernel_id for session in sessions]
        models = await self._provider.models(kernel_ids)
        found = list(map(models.alive.get, kernel_ids))
        if all(found):
            return zip(sessions, found, strict=True)
        return self._pair_with_some_missing(sessions, models)

    async def present(self, session: Session) -> LiveSession:
        """Pair the session with its kernel's model, even if the kernel has just died."""
        ((session, model),) = await self.pair([session])
        return session, model or {**_minimal_model(session), "execution_state": "dead"}

    @contextmanager
    def replacing_kernel(self, session_id: str) -> Iterator[None]:
        """While in the body, treat the session's kernel as unknown if it has died.

        An update uses this when it replaces a kernel that was alive just before. No read may
        report the session as gone, because the update gives it another kernel.
        """
        self._changing[session_id] += 1
        try:
            yield
        finally:
            self._changing -= Counter([session_id])

    def _pair_with_some_missing(
        self, sessions: Iterable[Session], models: KernelModels
    ) -> Iterator[tuple[Session, KernelModel | None]]:
        for session in sessions:
            model = models.alive.get(session.kernel_id)
            if model is None and (
                session.session_id in self._changing or not self._has_died(session, models)
            ):
                last_known = models.unknown.get(session.kernel_id) or _minimal_model(session)
                model = {**last_known, "execution_state": UNKNOWN}
            yield session, model

    def _has_died(self, kernel: Session | Kernel, models: KernelModels) -> bool:
        return models.is_dead(kernel.kernel_id) and self._provider.can_declare_dead(
            kernel.provider
        )


def _minimal_model(session: Session) -> dict[str, Any]:
    """Return a kernel model with the values that the session itself contains."""
    return {
        "id": session.kernel_id,
        "name": session.kernel_name or "",
        "last_activity": session.last_activity.isoformat().replace("+00:00", "Z"),
        "connections": 0,
    }
