"""Finds the kernels on this machine by their records and their processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from nbsessions.registry.process import (
    KernelProcess,
    ProcessIdentity,
    is_running,
    list_kernels,
)
from nbsessions.registry.records import KernelRecord, KernelRecords
from nbsessions.registry.servers import Servers, State
from nbsessions.registry.trouble import explain


@dataclass(frozen=True, kw_only=True)
class LocalKernel:
    """A kernel whose process runs on this machine."""

    kernel_id: str
    identity: ProcessIdentity
    record: KernelRecord | None = field(repr=False)  # It contains the kernel's key.
    server: State
    """The state of the server that owns it. SILENT if there is no record."""
    connection_file: str
    survives: bool
    """Whether it was launched to outlive its server."""
    may_have_record: bool = False
    """Whether it has a record that cannot be read, or records cannot be listed."""

    def has_clients(self) -> bool:
        """Return whether any client is connected to it. True also if that cannot be determined."""
        try:
            connections = psutil.Process(self.identity.pid).net_connections("tcp")
        except (psutil.Error, OSError, AttributeError):
            return True
        ports = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
        # ipykernel connects to its own shell port, which does not count.
        own = {each.laddr for each in connections if each.status == psutil.CONN_ESTABLISHED}
        # Without a TCP port, there is no way to see who is connected.
        return not ports or any(
            each.status == psutil.CONN_ESTABLISHED
            and each.laddr.port in ports
            and each.raddr not in own
            for each in connections
        )


class LocalKernels:
    """A snapshot of the kernels of one runtime directory."""

    def __init__(self, runtime_dir: Path, *, log: logging.Logger) -> None:
        self._log = log
        folder = runtime_dir.absolute() / "nbsessions"
        self.records = KernelRecords(folder / "kernels", log=log)
        self.servers = Servers(folder / "servers")
        processes = {each.kernel_id: each for each in list_kernels(os.path.realpath(runtime_dir))}
        self._kernels = {each.kernel_id: each for each in self._list(processes)}

    def find(self, kernel_id: str) -> LocalKernel | None:
        """Return the kernel, or None if its process does not run on this machine."""
        return self._kernels.get(kernel_id)

    def list_recorded(self) -> list[LocalKernel]:
        """Return the kernels that have a record. They may outlive their server."""
        return [each for each in self._kernels.values() if each.record is not None]

    def list_orphans(self, served: Collection[str] | None) -> list[LocalKernel]:
        """Return the kernels whose server is dead.

        ``served`` holds the ids of the kernels that running servers list. It is None if some
        server could not be found or asked: a kernel without a record might then belong to that
        server, so it is not returned.
        """
        return [each for each in self._kernels.values() if _is_orphan(each, served)]

    def _read_records(self) -> list[KernelRecord]:
        try:
            return list(self.records.read_all())
        except OSError as error:
            self._log.warning(
                "The kernel records cannot be read: %s", explain(error, self.records.folder)
            )
            return []

    def _list(self, processes: dict[str, KernelProcess]) -> Iterator[LocalKernel]:
        for record in self._read_records():
            process = processes.pop(record.kernel_id, None)
            identity = record.process
            if identity is None and process is not None and process.survives:
                identity = process.identity  # The server died while launching it.
            if identity is not None and is_running(identity):
                yield LocalKernel(
                    kernel_id=record.kernel_id,
                    identity=identity,
                    record=record,
                    server=self.servers.state(record.server_id),
                    connection_file=record.connection_file,
                    survives=True,
                )
        for process in processes.values():
            yield LocalKernel(
                kernel_id=process.kernel_id,
                identity=process.identity,
                record=None,
                server=State.SILENT,
                connection_file=process.connection_file,
                survives=process.survives,
                may_have_record=self._may_have_record(process.kernel_id),
            )

    def _may_have_record(self, kernel_id: str) -> bool:
        try:
            return self.records.exists(kernel_id)
        except OSError:
            return True


def _is_orphan(kernel: LocalKernel, served: Collection[str] | None) -> bool:
    if kernel.record is not None:
        return kernel.server is State.DEAD
    # Its record was lost. A server may still own it, even one whose own files were lost, too.
    return (
        kernel.survives
        and not kernel.may_have_record
        and served is not None
        and kernel.kernel_id not in served
        and not kernel.has_clients()
    )
