"""The interface of kernel providers, which start, find and shut down kernels."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from msgspec import Struct

from nbsessions.kernels.noted import ModelChanges
from nbsessions.models import EndReason, Kernel, KernelModels, KernelTrace, Missed


class KernelHost(Struct, frozen=True, kw_only=True):
    """The parts of the server that a provider is created with.

    Providers are found through the entry point group ``nbsessions.kernel_providers``. An entry
    point is a callable that takes a KernelHost and returns a KernelProvider.
    """

    kernel_manager: Any
    """The server's kernel manager."""
    contents_manager: Any
    """The server's contents manager, which knows the working directory for a session's path."""
    kernel_env: Callable[[str | None, str | None], dict[str, str]]
    """Returns the environment of a kernel, given the path and name of its session."""
    boot_id: str
    """Identifies the current boot of the machine. Empty if the platform does not provide an id."""
    log: logging.Logger
    """The logger for the provider's warnings and errors."""


def _ignore_launch(kernel_id: str, kernel_name: str) -> None:
    pass


class StartRequest(Struct, frozen=True, kw_only=True):
    """A request to start a kernel for a session."""

    token: str
    """The token of the start intent. It is also stored in the kernel's record.

    The session replaces the start intent in the store once the kernel has started.
    """
    session_id: str
    kernel_name: str | None
    """The name of the kernelspec, or None for the default one."""
    kernel_id: str | None
    """The requested id of the kernel. None lets the provider choose."""
    path: str | None
    name: str | None
    type: str | None
    launched: Callable[[str, str], object] = _ignore_launch
    """Called with the kernel's id and the name of its kernelspec, at most once.

    A provider may do so as soon as the process exists, so that the session is written while the
    rest of the start goes on. Until ``start`` has returned, ``models`` then does not count the
    kernel as dead, and ``shutdown`` waits for the end of the start. If the start fails after all,
    that is certain: it raises no KernelStartUncertain.
    """


class LeftKernels(Struct, frozen=True, kw_only=True):
    """The kernels that one server has left when it died, and this server may take over."""

    server_id: str
    kernels: Collection[KernelTrace]


current_start: ContextVar[StartRequest | None] = ContextVar("current_start", default=None)
"""The request that a kernel is being started for. Kernel managers that keep records read it."""


class KernelProvider(ABC):
    """Starts, finds, adopts and shuts down kernels of one kind.

    All methods are called on the event loop and must not block it.
    """

    name: str
    """The name of the provider, stored in every session whose kernel it runs.

    Two providers must have the same name if they see the same kernels, and only then.
    """

    shared_scope: str = ""
    """Names all kernels that other servers can serve as well, for example those of a gateway.

    It is empty if only this server can serve the provider's kernels. Otherwise, all servers of a
    namespace whose providers have the same one list, change and end each other's sessions.
    """

    accepts_kernel_ids: bool = True
    """Whether a client may choose the id of a new kernel."""

    orphan_timeout: timedelta | None = None
    """After how long without a server the kernels that another namespace has left are ended.

    These are the kernels in the shared scope. None if they are never ended.
    """

    settling_time: timedelta = timedelta(0)
    """After how long a start that was cut short can bring no kernel up any more.

    Until then, ``undo_start`` may raise an error again and again.
    """

    adoption_interval: timedelta | None = None
    """How often to look for kernels of servers that die. None if none can be taken over."""

    @property
    @abstractmethod
    def default_kernel_name(self) -> str | None:
        """The kernelspec to use if a request names none. None if it is not known."""

    def can_declare_dead(self, name: str) -> bool:
        """Return whether this provider can decide that a kernel of this server is dead.

        ``name`` is the provider name in the kernel's session. If the result is true, a kernel
        that ``models`` no longer returns is dead. For the kernels that other servers left
        behind, use ``find_ended``.
        """
        return name == self.name

    def new_kernel_id(self) -> str | None:
        """Return the id that the next kernel is to be started under. None if ``start`` chooses it.

        If there is one, the intent for the start has it, so that a start that was cut short can
        be found and undone.
        """
        return None

    @abstractmethod
    async def start(self, request: StartRequest) -> Kernel:
        """Start a kernel and return it once clients can connect to it.

        Raises KernelspecNotFound, KernelConflict if the requested id is in use, InvalidRequest
        if the path is not valid, KernelsUnavailable if what runs kernels cannot be reached, and
        KernelStartFailed for all other errors. After an error, no process is left running, except
        after KernelStartUncertain: the caller then has to call ``undo_start``.
        """

    @abstractmethod
    async def models(self, kernel_ids: Sequence[str]) -> KernelModels:
        """Return which of the kernels are alive, dead or in an unknown state.

        Never raises. A kernel whose model cannot be read, or not in time, counts as unknown and
        does not delay the others.
        """

    def watch_models(self, changes: ModelChanges) -> None:  # noqa: B027  # by default, it cannot
        """Note in ``changes``, which is new, each kernel whose model changes from now on.

        So are those that become dead, unknown or alive again. Sets ``changes.complete`` for as
        long as no change can be missed. A provider that cannot tell leaves it False. What was
        given before is not complete any more.
        """

    @abstractmethod
    def can_address(self, kernel_id: str) -> bool:
        """Return whether the REST API could address a kernel with this id."""

    @abstractmethod
    async def shutdown(self, kernel_id: str) -> None:
        """Shut a kernel down. Does nothing if the kernel has already ended."""

    async def wait_for_start(self, kernel_id: str) -> None:  # noqa: B027  # needs no launches
        """Wait while the kernel has been launched, but ``start`` has not returned."""

    async def undo_start(self, kernel_id: str) -> None:
        """Shut down the kernel of a start that did not complete, here or on another server.

        Raises an error as long as the kernel may still come up. The caller then tries again.
        """
        await self.shutdown(kernel_id)

    @abstractmethod
    def update_env(self, kernel_id: str, *, path: str | None, name: str | None) -> None:
        """Set the session's new path and name in the environment of the kernel's next restart.

        Never raises.
        """

    @abstractmethod
    def find_started(self, token: str) -> str | None:
        """Return the id of the kernel with this start token, or None if it no longer runs.

        The caller uses this for starts that a server did not finish because it died.
        """

    @abstractmethod
    async def find_ended(self, traces: Collection[KernelTrace]) -> Mapping[KernelTrace, EndReason]:
        """Return the kernels of dead servers that have certainly ended, and why: DIED or REBOOTED.

        A kernel that this server cannot see does not count as ended. It may run on another host
        or in another container, or it may wait for another server to adopt it. Never raises.
        """

    def may_find_left(self) -> bool:
        """Return False if ``find_left`` would certainly have returned no kernels a moment ago.

        This is asked for each new session, and does no I/O that takes long.
        """
        return True

    async def find_left(self) -> Collection[LeftKernels]:
        """Return the kernels that dead servers have left, and this server may take over.

        Those of a server are returned again and again until ``adopt`` or ``leave`` is called for
        it. Never raises.
        """
        return ()

    async def adopt(self, server_id: str) -> Collection[str]:
        """Take over what a dead server has left, and return the ids of the adopted kernels.

        Kernels that must not go on are ended instead. There are none if another server was faster
        or this one is stopping. Never raises.
        """
        return ()

    async def leave(self, server_id: str) -> None:  # noqa: B027  # by default, none is left
        """Leave what a dead server has left to the next server that starts."""

    @abstractmethod
    def list_adopted(self) -> Collection[str]:
        """Return the ids of the running kernels that this server adopted from dead servers."""

    @abstractmethod
    def watch(self, ended: Callable[[str], None]) -> None:
        """Call ``ended`` with the id of each kernel that ends from now on, for any reason."""

    @abstractmethod
    def was_connected(self, kernel_id: str) -> bool:
        """Return whether a client has connected, or may have connected, to the kernel."""

    def find_missed(self, clients: Collection[str]) -> Collection[Missed]:
        """Return what these clients of kernels had missed when they connected to this server.

        Clients of which that is not known are left out. Does no I/O.
        """
        return ()

    @abstractmethod
    def list_running(self) -> Collection[str]:
        """Return the ids of the kernels that this server runs. Does no I/O."""
