"""Whether a keeper runs, whether one should, and what it keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from nbsessions.cli.local_kernels import LocalKernel, LocalKernels
from nbsessions.keeper.addresses import can_follow
from nbsessions.keeper.asking import OtherVersion, ask_keeper
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.protocol import VERSION
from nbsessions.keeper.reading import bytes_after
from nbsessions.keeper.status import KeeperStatus, KernelStatus
from nbsessions.private import SUPPORTED
from nbsessions.registry.records import NEVER, KernelRecord
from nbsessions.registry.servers import State

_NOBODY_LISTENS = (FileNotFoundError, ConnectionRefusedError)


@dataclass(frozen=True, kw_only=True)
class KeeperState:
    """The keeper of a runtime directory."""

    folder: KeeperFolder
    recorded: Sequence[LocalKernel]
    """The kernels that may outlive their server."""
    status: KeeperStatus | None = None
    trouble: OSError | None = None
    """Why there is no status, if a keeper seems to run."""

    @property
    def records(self) -> list[KernelRecord]:
        """The records of these kernels."""
        return [each.record for each in self.recorded if each.record is not None]

    @property
    def audible(self) -> list[KernelRecord]:
        """The kernels that a keeper should listen to."""
        return [
            each for each in self.records if each.output_limit and can_follow(each.connection_info)
        ]

    @property
    def needed(self) -> list[KernelRecord]:
        """The kernels that a keeper should listen to, or end when they are orphans."""
        audible = {each.kernel_id for each in self.audible}
        return [
            each
            for each in self.records
            if each.kernel_id in audible or each.orphan_timeout != NEVER
        ]

    @property
    def is_restarted(self) -> bool:
        """Whether a running server starts another keeper if there is none."""
        needed = {each.kernel_id for each in self.needed}
        return any(each.server is State.LIVE for each in self.recorded if each.kernel_id in needed)

    @property
    def is_outdated(self) -> bool:
        """Whether the keeper is of an earlier release."""
        known = self.trouble if isinstance(self.trouble, OtherVersion) else self.status
        return known is not None and (known.version or 0) < VERSION

    @property
    def problem(self) -> str | None:
        """What is wrong, in one sentence without its full stop. None if nothing is."""
        if isinstance(self.trouble, OtherVersion):
            return (
                f"The keeper (process {self.trouble.pid}) has version {self.trouble.version} of "
                f"the protocol, and this release has version {VERSION}"
            )
        if self.trouble is not None:
            return f"The keeper does not answer: {self.trouble}"
        if self.status is None and self.needed:
            cost = (
                "what is said while nobody can receive it is lost"
                if self.audible
                else "orphans are not ended"
            )
            return f"No keeper runs, although {_may_outlive(len(self.needed))}: {cost}"
        return None

    @property
    def remedy(self) -> str | None:
        """What will be done about the keeper or its absence."""
        if self.is_outdated:
            return (
                "The next server of this release that starts or takes over a kernel replaces the "
                "keeper, and nothing is lost"
            )
        if isinstance(self.trouble, OtherVersion):
            return None
        if self.is_restarted:
            log = self.folder.path / "log"
            return f"A running server starts another within two seconds. If not, see {log}"
        return "The next server that takes over or starts a kernel starts another"

    @property
    def absence(self) -> str:
        """Why no keeper has to run."""
        if self.recorded:
            return (
                "No keeper runs, because nothing is kept of what kernels say, and they are never "
                "ended as orphans: so it was configured when they were started"
            )
        return "No keeper runs, because no kernel may outlive its server"

    @property
    def pid(self) -> int | None:
        """The id of the keeper's process, if it has told it."""
        if isinstance(self.trouble, OtherVersion):
            return self.trouble.pid
        return None if self.status is None else self.status.pid

    @property
    def memory(self) -> int | None:
        """The resident bytes of the keeper's process."""
        if self.pid is not None:
            with contextlib.suppress(psutil.Error):
                memory: int = psutil.Process(self.pid).memory_info().rss
                return memory
        return None

    @property
    def kernels(self) -> Mapping[str, KernelStatus]:
        """What is kept, by kernel id."""
        return {} if self.status is None else self.status.kernels

    @property
    def kept_bytes(self) -> int:
        """The size of the files of all kernels."""
        return sum(kernel.bytes for kernel in self.kernels.values())

    def waiting(self, kernel_id: str) -> int:
        """Return how many bytes are kept of a kernel for clients that are away."""
        kernel = self.kernels[kernel_id]
        if kernel.needed_after is None or kernel.needed_after >= kernel.position:
            return 0
        try:
            return bytes_after(self.folder.spools, kernel_id, kernel.needed_after)
        except OSError:
            return 0


def read_state(runtime_dir: Path, kernels: LocalKernels) -> KeeperState:
    """Ask the keeper, if there is one."""
    folder = KeeperFolder(runtime_dir.absolute() / "nbsessions")
    state = KeeperState(folder=folder, recorded=kernels.list_recorded())
    if not SUPPORTED:
        return state
    try:
        return KeeperState(folder=folder, recorded=state.recorded, status=ask_keeper(folder))
    except _NOBODY_LISTENS:
        return state
    except OSError as error:
        return KeeperState(folder=folder, recorded=state.recorded, trouble=error)


def _may_outlive(kernels: int) -> str:
    if kernels == 1:
        return "1 kernel may outlive its server"
    return f"{kernels} kernels may outlive their server"
