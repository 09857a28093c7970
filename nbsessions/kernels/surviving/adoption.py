"""Takes over kernels whose server is dead, and ends those that nobody follows."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from msgspec.structs import replace

from nbsessions.identity import boot_id, pid_namespace
from nbsessions.kernels.surviving.ending import KernelEnder
from nbsessions.kernels.surviving.process import (
    KERNEL_ID_VARIABLE,
    find_kernel,
    is_running,
)
from nbsessions.kernels.surviving.records import KernelRecord, KernelRecords, forget_kernel
from nbsessions.kernels.surviving.servers import Servers

_STRANGERS_KEPT_FOR = 24 * 3600.0


class Adoption:
    """Goes through the records of dead servers, once, when a server starts. Blocks."""

    def __init__(
        self,
        records: KernelRecords,
        servers: Servers,
        ender: KernelEnder,
        *,
        root_dir: str,
        orphan_timeout: float,
        log: logging.Logger,
    ) -> None:
        self._records = records
        self._servers = servers
        self._ender = ender
        self._root_dir = root_dir
        self._orphan_timeout = orphan_timeout
        self._log = log

    def run(self, adopt: Callable[[KernelRecord], None]) -> None:
        """Have ``adopt`` called with each kernel that is ours to follow.

        It raises ProcessLookupError for a kernel that is gone. The record of one whose restart
        was cut short before its new process was there has none: it is to be started.
        """
        for server_id in self._servers.list_ids():
            if server_id == self._servers.server_id:
                continue
            with self._servers.claim(server_id) as claimed:
                if claimed:
                    self._settle(server_id, adopt)

    def _settle(self, server_id: str, adopt: Callable[[KernelRecord], None]) -> None:
        self._records.remove_drafts(server_id)
        # Read under the lock: until then, the server may have lived, or another followed it.
        records = [each for each in self._records.read_all() if each.server_id == server_id]
        settled = [self._try_to_settle(record, adopt) for record in records]
        if all(settled):
            self._servers.forget(server_id)

    def _try_to_settle(self, record: KernelRecord, adopt: Callable[[KernelRecord], None]) -> bool:
        try:
            return self._settle_kernel(record, adopt)
        except Exception:
            # One kernel keeps neither the others nor the server from starting.
            self._log.warning("Kernel %s is left as it is", record.kernel_id, exc_info=True)
            return False

    def _settle_kernel(self, record: KernelRecord, adopt: Callable[[KernelRecord], None]) -> bool:
        """Adopt, end or forget the kernel; return False when something of it is left."""
        if _is_out_of_sight(record):
            return self._forget_stranger(record)
        unknown = record.process is None
        if unknown:
            marked = {KERNEL_ID_VARIABLE: record.kernel_id}
            record = replace(record, process=find_kernel(record.connection_file, marked))
        if record.process is None or not is_running(record.process):
            if not record.restarting:
                self._forget(record)
                return True
            record = replace(record, process=None)
        if unknown and not record.restarting:
            # Nobody was told of it.
            self._ender.end(record)
        elif self._servers.was_ending(record.server_id):
            self._log.info("Kernel %s is ended: its server was ending it", record.kernel_id)
            self._ender.end(record)
        elif record.root_dir == self._root_dir:
            return self._adopt(record, adopt)
        elif self._servers.silent_for(record.server_id) > self._orphan_timeout:
            self._log.info(
                "Kernel %s is ended: no server has followed its own in %s",
                record.kernel_id,
                record.root_dir,
            )
            self._ender.end(record)
        # While it is being ended, we may die: the next server has to find all as we did.
        return False

    def _adopt(self, record: KernelRecord, adopt: Callable[[KernelRecord], None]) -> bool:
        try:
            adopt(record)
        except ProcessLookupError:
            self._forget(record)
        return True

    def _forget(self, record: KernelRecord) -> None:
        self._log.debug("Kernel %s has ended without a server", record.kernel_id)
        forget_kernel(self._records, record)

    def _forget_stranger(self, record: KernelRecord) -> bool:
        """Forget what another host or container has left long ago: nobody here knows better."""
        if self._servers.silent_for(record.server_id) <= _STRANGERS_KEPT_FOR:
            return False
        forget_kernel(self._records, record)
        return True


def _is_out_of_sight(record: KernelRecord) -> bool:
    """Return whether the kernel was on another host, or in another container of this one."""
    process = record.process
    if process is not None and process.boot_id and process.boot_id == boot_id():
        # This host, whatever it is called by now.
        return process.pid_namespace != pid_namespace()
    return record.host != socket.gethostname()
