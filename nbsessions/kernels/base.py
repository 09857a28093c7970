"""The pluggable kernel manager interface: the port to whatever runs the kernels."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from nbsessions.models import Kernel, KernelModels, KernelTrace


@dataclass(frozen=True, kw_only=True)
class KernelHost:
    """What a provider is built from. Providers are found by the entry points of
    ``nbsessions.kernel_providers``: callables that take this and return a KernelProvider.
    """

    kernel_manager: Any
    """The host's kernel manager."""
    contents_manager: Any
    """The host's contents manager, which knows in which folder a kernel runs."""
    kernel_env: Callable[[str | None, str | None], dict[str, str]]
    """Returns a kernel's environment for a session's path and name."""
    boot_id: str
    """Identifies the current boot of the machine; empty where that cannot be known."""
    log: logging.Logger
    """Where a provider says what went wrong."""


@dataclass(frozen=True, kw_only=True)
class StartRequest:
    """What a kernel is started for."""

    token: str
    """The start intent that this kernel will be exchanged for; goes into a kernel's record."""
    session_id: str
    kernel_name: str | None
    """The kernelspec; None for the default one."""
    kernel_id: str | None
    """The id that the kernel is to get; None lets the provider choose."""
    path: str | None
    name: str | None
    type: str | None


current_start: ContextVar[StartRequest | None] = ContextVar("current_start", default=None)
"""What the kernel is for that a provider starts, for those below who keep records of kernels."""


class KernelProvider(ABC):
    """Starts, resolves, adopts and shuts down kernels of one kind.

    All methods are called on the event loop and may not block it.
    """

    name: str
    """Names the provider in every session whose kernel it has. Two providers have one name when
    they see the same kernels, and only then.
    """

    @property
    @abstractmethod
    def default_kernel_name(self) -> str | None:
        """The kernelspec of those who ask for none; None where that is not known."""

    def is_authority_for(self, name: str) -> bool:
        """Return whether this server's provider may pronounce a kernel of its own dead.

        It may when the kernel's session names it: then it is gone as soon as ``models`` does
        not know it. What other servers have left is asked about with ``find_ended``.
        """
        return name == self.name

    @abstractmethod
    async def start(self, request: StartRequest) -> Kernel:
        """Start a kernel and return it once it can be attached to.

        Raises KernelspecNotFound, KernelConflict when the id asked for is taken,
        InvalidRequest when the path cannot be used, KernelStartFailed for all else. Nothing
        is left running after an error.
        """

    @abstractmethod
    async def models(self, kernel_ids: Sequence[str]) -> KernelModels:
        """Tell which of the kernels are alive, dead or unknown, in one call for many.

        Never raises: a kernel that fails or is slow to answer is unknown, and does not hold up
        the others.
        """

    @abstractmethod
    def can_address(self, kernel_id: str) -> bool:
        """Return whether clients could reach a kernel of this id."""

    @abstractmethod
    async def shutdown(self, kernel_id: str) -> None:
        """Shut a kernel down. One that is gone already is no error."""

    @abstractmethod
    def update_env(self, kernel_id: str, *, path: str | None, name: str | None) -> None:
        """Let the kernel's next restart know the session's new path and name. Never raises."""

    @abstractmethod
    def find_started(self, token: str) -> str | None:
        """Return the id of the kernel that was started under this intent, if it still runs.

        For starts that a server did not live to see the end of.
        """

    @abstractmethod
    async def find_ended(self, traces: Collection[KernelTrace]) -> Collection[KernelTrace]:
        """Return those of the kernels that dead servers left which have ended, for certain.

        A kernel that this server does not see has not ended: it may be on another host, in
        another container, or be waiting for another server. Never raises.
        """

    @abstractmethod
    def list_adopted(self) -> Collection[str]:
        """Return the ids of the kernels that this server took over from dead ones, and has."""

    @abstractmethod
    def watch(self, ended: Callable[[str], None]) -> None:
        """Call ``ended`` with the id of each kernel that ends from now on, whatever ends it."""

    @abstractmethod
    def was_connected(self, kernel_id: str) -> bool:
        """Return whether a client has ever been connected to the kernel, or may have been."""

    @abstractmethod
    def list_running(self) -> Collection[str]:
        """Return the ids of the kernels that live with this server, without any I/O."""
