"""The kernel manager of a server behind a gateway, which serves the kernels of every server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jupyter_server.gateway.managers import GatewayMappingKernelManager
from tornado.web import HTTPError
from traitlets import Float

from nbsessions.kernels.gateway.culling import Culling, CullingRule, KernelSessions
from nbsessions.kernels.gateway.events import emit_action
from nbsessions.kernels.gateway.models import GatewayModels
from nbsessions.kernels.gateway.requests import GatewayError, GatewayRequests
from nbsessions.kernels.internals import set_remote_kernel
from nbsessions.models import KernelModel, KernelModels

_DELETE_TIMEOUT = 4.0
"""Seconds after which to ask again for the end of a kernel, because the gateway may have lost it.

It may be asked again while it is at work on that.
"""

_MOST_LISTINGS = 3
"""How often a list is made at the most. Sessions may keep coming."""

_STOP_TIMEOUT = 10.0
"""Seconds that the gateway gets to end kernels when the server stops."""


_Stock: Any = GatewayMappingKernelManager
# The types of its methods do not even fit those of its own base classes.


class GatewayKernels(_Stock):  # type: ignore[misc]
    """Serves any kernel of the gateway, whichever server has started it.

    It learns of a kernel when a request names it. It lists the kernels that it knows and those
    of all sessions in the namespace. Kernels of sessions go on running when the server ends,
    whether it crashes or is stopped, because other servers can serve them. The kernels that were
    started by a request to ``/api/kernels`` here and have no session end with a server that is
    stopped.
    """

    session_provider = "gateway"
    """The value of AsyncSessionManager.kernel_provider that fits this class."""

    models_max_age = Float(
        1.0,
        min=0.0,
        help="""For how many seconds the server may use what the gateway has told about its
        kernels. A kernel that ends at the gateway may be listed for as long. If the gateway does
        not list its kernels, the server asks for each of them, but for no more than 20 per
        second on average. With more than 20 kernels, what it knows is then older.""",
    ).tag(config=True)

    orphan_timeout = Float(
        0.0,
        min=0.0,
        help="""Seconds without any server in a namespace after which the sessions that it has left
        may be ended, with their kernels at the gateway. 0 means never. A server ends them when it
        starts, if they are in its store and at its gateway, but in another namespace. Sessions of
        the server's own namespace are served again, however old they are. The time begins when
        the last server of the namespace was stopped, or at the last sign of life of one that was
        killed or has lost its database. Each server gives one at least every ten minutes. If other
        users have namespaces that this server can change in a shared database, their kernels are
        ended, too.""",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The class above has one dictionary for all its instances.
        self._kernels: dict[str, Any] = {}
        self.requests = GatewayRequests()
        self.models = GatewayModels(self.requests, max_age=self.models_max_age, log=self.log)
        self.sessions: KernelSessions = _NoSessions()
        self._culling = Culling(self.models, self.requests, log=self.log)
        self._started_here: set[str] = set()
        self._watchers: list[Callable[[str], None]] = []

    # Which kernels there are

    def add(self, model: KernelModel) -> None:
        """Add a kernel that has just been started for a session."""
        self.models.started(model)
        self._serve(model)

    async def end(self, kernel_id: str) -> bool:
        """Shut a kernel down at the gateway. Return whether it was there. Raises GatewayError."""
        try:
            await self.requests.kernels("DELETE", kernel_id, timeout=_DELETE_TIMEOUT)
        except GatewayError as error:
            if not error.is_missing(kernel_id):
                emit_action(self, "shutdown", kernel_id, error=error)
                raise
            existed = False
        else:
            emit_action(self, "shutdown", kernel_id)
            existed = True
        self.models.ended(kernel_id)
        self.remove_kernel(kernel_id)
        return existed

    def remove_kernel(self, kernel_id: str) -> Any:
        """Stop serving a kernel, which has ended."""
        kernel = super().remove_kernel(kernel_id)
        self._started_here.discard(kernel_id)
        if kernel is not None:
            self.models.ended(kernel_id)
            for ended in self._watchers:
                ended(kernel_id)
        return kernel

    def watch(self, ended: Callable[[str], None]) -> None:
        """Call ``ended`` with the id of each kernel that this server notices to have ended."""
        self._watchers.append(ended)

    async def learn(self, kernel_id: str) -> KernelModel:
        """Return the kernel's model, and serve the kernel from now on.

        If the gateway cannot tell its state, the model is the last known one, with the
        execution_state "unknown". Raises HTTPError 404 if there is no such kernel, and 503 if
        it was not served before.
        """
        if kernel_id in self:
            models = await self.models.get([kernel_id])
        else:
            models = await self.models.find(kernel_id)
        model = models.alive.get(kernel_id)
        if model is not None:
            self._serve(model)
            return model
        if models.is_dead(kernel_id):
            self.remove_kernel(kernel_id)
            raise HTTPError(404, f"Kernel does not exist: {kernel_id}")
        if kernel_id not in self:
            raise HTTPError(503, "The gateway does not tell whether this kernel exists")
        return self._unknown(kernel_id, models)

    def _unknown(self, kernel_id: str, models: KernelModels) -> KernelModel:
        """Return the last model of a kernel that is served here, and is unknown now."""
        last_known = models.unknown[kernel_id] or self._kernels[kernel_id].kernel
        return {**last_known, "execution_state": "unknown"}

    def _serve(self, model: KernelModel) -> None:
        kernel_id = model["id"]
        if kernel_id not in self:
            self._kernels[kernel_id] = self.kernel_manager_factory(parent=self, log=self.log)
        set_remote_kernel(self._kernels[kernel_id], model)

    # The methods of the class above, for kernels that may not be known here

    async def start_kernel(
        self, *, kernel_id: str | None = None, path: str | None = None, **kwargs: Any
    ) -> str:
        """Start a kernel without a session, or serve the one with this id."""
        if kernel_id is not None:
            await self.learn(kernel_id)
            return kernel_id
        started: str = await super().start_kernel(path=path, **kwargs)
        self._started_here.add(started)
        self.models.started(self._kernels[started].kernel)
        return started

    async def kernel_model(self, kernel_id: str) -> KernelModel:
        """See ``learn``."""
        return await self.learn(str(kernel_id))

    async def list_kernels(self, **kwargs: Any) -> list[KernelModel]:
        """Return the models of the kernels of all sessions, and of those that are known here.

        Raises HTTPError 503 if it is not known which sessions there are, because JupyterLab takes
        a kernel that is missing for dead. That is also why kernels are listed again if others have
        got sessions while the gateway was asked.
        """
        held = set(await self.sessions.list_session_kernels())
        for _ in range(_MOST_LISTINGS):
            listed = await self._list()
            before, held = held, set(await self.sessions.list_session_kernels())
            if held <= before:
                break
        return list(listed.values())

    async def _list(self) -> dict[str, KernelModel]:
        listed = {
            each["kernel"]["id"]: each["kernel"] for each in await self.sessions.list_sessions()
        }
        others = [each for each in self.list_kernel_ids() if each not in listed]
        models = await self.models.get(others)
        for kernel_id in others:
            if models.is_dead(kernel_id):
                self.remove_kernel(kernel_id)
            elif kernel_id in self:  # It may have been shut down in the meantime.
                listed[kernel_id] = models.alive.get(kernel_id) or self._unknown(kernel_id, models)
        return listed

    async def shutdown_kernel(
        self, kernel_id: str, now: bool = False, restart: bool = False
    ) -> None:
        """Shut down a kernel, whichever server has started it, and end its sessions.

        If it has sessions, it is certain to end, even if the gateway cannot be reached now.
        """
        if not restart and await self._end_with_sessions(kernel_id):
            return
        await self.learn(kernel_id)
        try:
            await self.end(kernel_id)
        except GatewayError as error:
            raise HTTPError(503, f"The gateway did not shut the kernel down: {error}") from error

    async def _end_with_sessions(self, kernel_id: str) -> bool:
        """End the kernel in the way of sessions. Return False if that is not possible."""
        try:
            session_ids = (await self.sessions.list_session_kernels()).get(kernel_id, ())
            return bool(session_ids) and await self.sessions.end_kernel(kernel_id, session_ids)
        except HTTPError:
            return False

    async def restart_kernel(self, kernel_id: str, now: bool = False, **kwargs: Any) -> None:
        """Restart a kernel, whichever server has started it."""
        await self.learn(kernel_id)
        await super().restart_kernel(kernel_id, now=now, **kwargs)

    async def interrupt_kernel(self, kernel_id: str, **kwargs: Any) -> None:
        """Interrupt a kernel, whichever server has started it."""
        await self.learn(kernel_id)
        await super().interrupt_kernel(kernel_id, **kwargs)

    async def cull_kernels(self) -> None:
        """End the kernels that no client of any server has used for some time.

        The server calls this every ``cull_interval`` seconds once ``initialize_culler`` was
        called, if ``cull_idle_timeout`` is set.
        """
        rule = CullingRule(
            idle_timeout=self.cull_idle_timeout,
            connected=self.cull_connected,
            busy=self.cull_busy,
        )
        await self._culling.run(rule, self.sessions, set(self._started_here))

    # Stopping

    async def shutdown_all(self, now: bool = False) -> None:
        """Shut down the kernels that no other server can serve. Never raises.

        Those are the ones that were started here without a session. If the sessions end with this
        server, those of the sessions end, too.
        """
        ending = await self._list_ending()
        # The session manager takes no more orders.
        tasks = [asyncio.ensure_future(self.end(each)) for each in ending]
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_TIMEOUT)
        failed = [task for task in tasks if not task.done() or task.exception() is not None]
        if failed:
            self.log.warning("%d kernels were not shut down", len(failed))
        self.models.close()

    async def _list_ending(self) -> set[str]:
        """Return the kernels to shut down with this server. Those that may be in use are not."""
        try:
            held = set(await self.sessions.list_session_kernels())
            if not await self.sessions.outlive_server():
                return self._started_here | held
        except HTTPError:
            return set()
        if held:
            self.log.info("The kernels of sessions go on running at the gateway")
        return self._started_here - held


class _NoSessions(KernelSessions):
    """What a server knows of sessions that has not set any."""

    async def list_sessions(self) -> Sequence[Mapping[str, Any]]:
        return ()

    async def outlive_server(self) -> bool:
        return False

    async def list_session_kernels(self) -> Mapping[str, Collection[str]]:
        return {}

    async def end_kernel(self, kernel_id: str, session_ids: Collection[str]) -> bool:
        return False
