"""The kernels that the keeper listens to, as their records say."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator

import zmq

from nbsessions.keeper.addresses import can_follow
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.inheritance import Inheritance
from nbsessions.keeper.kernel import KeptKernel
from nbsessions.keeper.sharing import fair_level
from nbsessions.keeper.sockets import Context, Socket
from nbsessions.keeper.writer import Writer
from nbsessions.registry.records import KernelRecord, KernelRecords


class KeptKernels:
    """Begins and ends to listen to kernels, when their records come and go."""

    def __init__(
        self,
        records: KernelRecords,
        folder: KeeperFolder,
        context: Context,
        writer: Writer,
        inheritance: Inheritance,
        *,
        log: logging.Logger,
    ) -> None:
        """``inheritance`` is closed after the first scan."""
        self._records = records
        self._folder = folder
        self._context = context
        self._writer = writer
        self._inheritance = inheritance
        self._log = log
        self._read: dict[str, tuple[object, KernelRecord]] = {}
        self._kernels: dict[str, KeptKernel] = {}

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self._kernels

    def __iter__(self) -> Iterator[KeptKernel]:
        return iter(self._kernels.values())

    def find(self, kernel_id: str) -> KeptKernel | None:
        """Return a kernel, or None if the keeper does not listen to it."""
        return self._kernels.get(kernel_id)

    def sockets(self) -> dict[Socket, KeptKernel]:
        """Return the sockets that messages may arrive at, and whose they are."""
        return {each: kernel for kernel in self for each in kernel.sockets()}

    @property
    def records(self) -> Collection[KernelRecord]:
        """The records of all kernels, also of those that the keeper does not listen to."""
        return [record for _, record in self._read.values()]

    def scan(self) -> None:
        """Look for new and changed records, and for those that are gone. Raises OSError."""
        found = self._records.list_ids()
        for kernel_id in self._read.keys() - set(found):
            self._forget_if_removed(kernel_id)
        for kernel_id in found:
            self.watch(kernel_id)
        self._inheritance.close()
        most = self.total_limit
        level = fair_level([kernel.spool.size() for kernel in self], most) if most else None
        for kernel in self:
            kernel.end_overlap()
            kernel.share(level)

    @property
    def total_limit(self) -> int:
        """How many bytes all files may have together. 0 if there is no limit."""
        limits = [each.total_output_limit for each in self.records if each.kernel_id in self]
        return min(filter(None, limits), default=0)

    def _forget_if_removed(self, kernel_id: str) -> None:
        # A list may lack a record that was replaced just then. Only its own name tells.
        with contextlib.suppress(OSError):
            if self._records.exists(kernel_id):
                return
            del self._read[kernel_id]
            kernel = self._kernels.pop(kernel_id, None)
            if kernel is not None:
                kernel.remove()

    def watch(self, kernel_id: str) -> None:
        """Follow the kernel if its record says so. Read the record only if it has changed."""
        try:
            changed = self._records.version(kernel_id)
        except OSError:
            return
        known = self._read.get(kernel_id)
        if known is not None and known[0] == changed:
            return
        record = self._records.read(kernel_id)
        if record is None:
            return
        self._read[kernel_id] = (changed, record)
        if record.output_limit and can_follow(record.connection_info):
            self._follow(record)

    def _follow(self, record: KernelRecord) -> None:
        kernel = self._kernels.get(record.kernel_id)
        try:
            if kernel is None:
                kernel = KeptKernel(
                    record, self._folder, self._context, self._writer, log=self._log
                )
                kernel.open(self._inheritance)
                self._kernels[record.kernel_id] = kernel
            kernel.follow(record)
        except (OSError, zmq.ZMQError) as error:
            self._log.warning("Kernel %s cannot be followed: %s", record.kernel_id, error)

    def server_died(self, server_id: str) -> None:
        """Stand in for the clients of a server that has died."""
        for kernel in self:
            _, record = self._read[kernel.kernel_id]
            kernel.server_died(server_id, was_owner=record.server_id == server_id)
