"""Ends kernels that nobody has used for some time, in one of the servers that may do so."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from tornado.web import HTTPError

from nbsessions.kernels.gateway.models import GatewayModels
from nbsessions.kernels.gateway.requests import GatewayError, GatewayRequests
from nbsessions.models import KernelModel, utcnow


class KernelSessions(Protocol):
    """The sessions of kernels. AsyncSessionManager has these methods.

    They raise HTTPError if the store cannot be used.
    """

    async def list_sessions(self) -> Sequence[Mapping[str, Any]]:
        """Return the models of all sessions. Each has the model of its kernel."""

    async def outlive_server(self) -> bool:
        """Return whether other servers can go on with the sessions when this one has ended."""

    async def list_session_kernels(self) -> Mapping[str, Collection[str]]:
        """Return the ids of all sessions by the id of their kernel."""

    async def end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        """Shut down a kernel and end its sessions, if these are all its sessions.

        Returns whether this call has ended the kernel.
        """


@dataclass(frozen=True, kw_only=True)
class CullingRule:
    """Which kernels are to end. The values have the meaning of the kernel manager's traits."""

    idle_timeout: float
    connected: bool
    busy: bool

    def applies_to(self, model: KernelModel, idle_timeout: float, now: datetime) -> bool:
        """Return whether a kernel with this model and time-out is to end.

        A time-out of 0 or less lets no idle kernel end.
        """
        if model["execution_state"] == "dead":
            return True
        return (
            0 < idle_timeout < idle_time(model, now).total_seconds()
            and (self.busy or model["execution_state"] != "busy")
            and (self.connected or not model["connections"])
        )


def idle_time(model: KernelModel, now: datetime) -> timedelta:
    """Return how long ago the kernel was last active. Zero if its model does not tell."""
    try:
        return now - datetime.fromisoformat(model["last_activity"].replace("Z", "+00:00"))
    except (TypeError, ValueError):  # without a time zone, or no time at all
        return timedelta()


class Culling:
    """Ends the kernels that a rule applies to. Used on one event loop.

    The gateway knows what all servers do with a kernel, so its model decides, and what is not
    known ends nothing. Several servers may come to the same decision. The transaction that ends
    the sessions of the kernel lets one of them end it.
    """

    def __init__(
        self, models: GatewayModels, requests: GatewayRequests, *, log: logging.Logger
    ) -> None:
        self._models = models
        self._requests = requests
        self._log = log

    async def run(
        self, rule: CullingRule, sessions: KernelSessions, started_here: Collection[str]
    ) -> None:
        """End the kernels of sessions, and of those ``started_here``, that the rule applies to.

        A kernel without a session may be in use where this server cannot see it, so only the
        server that has started it ends it.
        """
        try:
            # Look for sessions first. If one is added after that, the kernel does not end.
            holders = await sessions.list_session_kernels()
        except HTTPError as error:
            self._log.debug("It is not known which kernels have sessions: %s", error)
            return
        candidates: dict[str, Collection[str]] = {**dict.fromkeys(started_here, ()), **holders}
        models = await self._models.get(candidates)
        timeouts: dict[str, float | None] = {}
        for kernel_id, model in models.alive.items():
            name = model["name"]
            if name not in timeouts:
                timeouts[name] = await self._find_timeout(name, rule)
            timeout = timeouts[name]
            if timeout is not None and rule.applies_to(model, timeout, utcnow()):
                await self._end(kernel_id, candidates[kernel_id], rule, timeout, sessions)

    async def _find_timeout(self, kernel_name: str, rule: CullingRule) -> float | None:
        """Return the time-out for kernels of this name. None if the gateway does not tell."""
        try:
            kernelspec = await self._requests.kernelspec(kernel_name)
            timeout = kernelspec["spec"]["metadata"]["cull_idle_timeout"]
        except GatewayError as error:
            return rule.idle_timeout if error.is_missing(kernel_name) else None
        except (KeyError, TypeError):
            return rule.idle_timeout
        return timeout if isinstance(timeout, (int, float)) else rule.idle_timeout

    async def _end(
        self,
        kernel_id: str,
        session_ids: Collection[str],
        rule: CullingRule,
        timeout: float,
        sessions: KernelSessions,
    ) -> None:
        # The model was kept for some time, and other kernels had to end first.
        model = await self._models.ask(kernel_id)
        now = utcnow()
        if model is None or not rule.applies_to(model, timeout, now):
            return
        try:
            if not await sessions.end_kernel(kernel_id, session_ids):
                return
        except HTTPError as error:
            self._log.warning("Kernel %s could not be culled: %s", kernel_id, error)
            return
        self._log.warning(
            "Culled '%s' kernel '%s' (%s) with %d connections due to %d seconds of inactivity.",
            model["execution_state"],
            model["name"],
            kernel_id,
            model["connections"],
            idle_time(model, now).total_seconds(),
        )
