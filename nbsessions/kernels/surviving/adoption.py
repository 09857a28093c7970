"""Takes over kernels whose server is dead, and ends those that nobody follows."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

from msgspec.structs import replace

from nbsessions.identity import boot_id, pid_namespace
from nbsessions.kernels.registry.ending import KernelEnder
from nbsessions.kernels.registry.process import (
    KERNEL_ID_VARIABLE,
    find_kernel,
    is_running,
)
from nbsessions.kernels.registry.records import KernelRecord, KernelRecords, forget_kernel
from nbsessions.kernels.registry.servers import Servers
from nbsessions.locks import FileLock
from nbsessions.models import ABANDONED_AFTER

_STRANGERS_KEPT_FOR = ABANDONED_AFTER.total_seconds()


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
        """Have ``adopt`` called with each kernel that is ours to follow. Raises OSError.

        It raises ProcessLookupError for a kernel that is gone. The record of one whose restart
        was cut short before its new process was there has none: it is to be started.
        """
        for server_id in self._servers.list_ids():
            if server_id == self._servers.server_id:
                continue
            lock = self._servers.take_over(server_id)
            if lock is not None:
                self._follow(server_id, lock, adopt)

    def _follow(
        self, server_id: str, lock: FileLock, adopt: Callable[[KernelRecord], None]
    ) -> None:
        """Settle what a dead server left, whose lock we have until all is done."""
        ending: list[KernelRecord] = []
        settled = False
        try:
            settled = self._settle(server_id, adopt, ending)
        finally:

            def finish(ended: bool) -> None:
                if settled and ended:
                    self._servers.forget(server_id)
                lock.close()

            # Nobody else may take over what is being ended.
            self._ender.end(ending, finish) if ending else finish(True)

    def _settle(
        self,
        server_id: str,
        adopt: Callable[[KernelRecord], None],
        ending: list[KernelRecord],
    ) -> bool:
        """Return whether nothing is left of the server but what is in ``ending`` then."""
        self._records.remove_drafts(server_id)
        # Read under the lock: until then, the server may have lived, or another followed it.
        kernel_ids = self._records.list_ids()
        settled = []
        for kernel_id in kernel_ids:
            record = self._records.read(kernel_id)
            if record is None:
                # It may be one of this server's. Of another user's, it is not.
                settled.append(self._is_nobodys(kernel_id))
            elif record.server_id == server_id:
                settled.append(self._try_to_settle(record, adopt, ending))
        return all(settled)

    def _is_nobodys(self, kernel_id: str) -> bool:
        try:
            return self._records.is_foreign(kernel_id)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _try_to_settle(
        self,
        record: KernelRecord,
        adopt: Callable[[KernelRecord], None],
        ending: list[KernelRecord],
    ) -> bool:
        try:
            return self._settle_kernel(record, adopt, ending)
        except Exception:
            # One kernel keeps neither the others nor the server from starting.
            self._log.warning("Kernel %s is left as it is", record.kernel_id, exc_info=True)
            return False

    def _settle_kernel(
        self,
        record: KernelRecord,
        adopt: Callable[[KernelRecord], None],
        ending: list[KernelRecord],
    ) -> bool:
        """Adopt or forget the kernel, or add it to what is to be ended; else return False."""
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
            ending.append(record)
        elif self._servers.was_ending(record.server_id):
            self._log.info("Kernel %s is ended: its server was ending it", record.kernel_id)
            ending.append(record)
        elif record.root_dir == self._root_dir:
            self._adopt(record, adopt)
        elif self._servers.silent_for(record.server_id) > self._timeout_of(record):
            self._log.info(
                "Kernel %s is ended: no server has followed its own in %s",
                record.kernel_id,
                record.root_dir,
            )
            ending.append(record)
        else:
            return False
        return True

    def _timeout_of(self, record: KernelRecord) -> float:
        # What its own server was set to counts: it is that one's kernel.
        timeout = record.orphan_timeout
        return self._orphan_timeout if timeout is None else timeout

    def _adopt(self, record: KernelRecord, adopt: Callable[[KernelRecord], None]) -> None:
        try:
            adopt(record)
        except ProcessLookupError:
            self._forget(record)

    def _forget(self, record: KernelRecord) -> None:
        self._log.debug("Kernel %s has ended without a server", record.kernel_id)
        forget_kernel(self._records, record)

    def _forget_stranger(self, record: KernelRecord) -> bool:
        """Forget what another host or container has left, when nobody has come back for long."""
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
