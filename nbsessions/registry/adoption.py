"""Takes over kernels whose server is dead, and ends those that no server takes over."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection

from msgspec.structs import replace

from nbsessions.identity import boot_id, pid_namespace
from nbsessions.locks import FileLock
from nbsessions.models import ABANDONED_AFTER
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.process import (
    KERNEL_ID_VARIABLE,
    find_kernel,
    is_running,
)
from nbsessions.registry.records import KernelRecord, KernelRecords, forget_kernel
from nbsessions.registry.servers import Servers, State
from nbsessions.registry.trouble import explain

_MOMENT = 1.0
"""Seconds after which another change of a folder has another value, see Servers.last_change."""

_ELSEWHERE_KEPT_FOR = ABANDONED_AFTER.total_seconds()


class Adoption:
    """Processes the records of dead servers. Blocks. Used by one thread at a time.

    When this server starts, it processes those of all dead servers. As long as it runs, it
    processes those of servers that die in its root directory.
    """

    def __init__(
        self,
        records: KernelRecords,
        servers: Servers,
        ender: KernelEnder,
        *,
        root_dir: str | None,
        orphan_timeout: float,
        silent_for: Callable[[str], float] | None = None,
        log: logging.Logger,
    ) -> None:
        """``root_dir``: whose kernels are adopted. None for a process that adopts none.

        ``silent_for`` returns how many seconds ago a server was last known to be alive.
        """
        self.namespace: str | None = None
        """Kernels whose sessions are in another namespace are not adopted. None: any namespace."""
        self._records = records
        self._servers = servers
        self._ender = ender
        self._root_dir = root_dir
        self._silent_for = silent_for or servers.silent_for
        self._orphan_timeout = orphan_timeout
        self._log = log
        self._settled: dict[str, tuple[int, int] | None] = {}
        """The dead servers that need no other look, with their last signs of life."""
        self._in_other_roots: Counter[str] = Counter()
        """How many kernels go on running for each of the other root directories."""
        self._in_other_namespaces: Counter[str] = Counter()
        """How many kernels in our root directory go on running for each of the others."""
        self._last_change: tuple[int, int] | None = None
        self._change_seen = 0.0
        self._alone_since: tuple[int, int] | None = None
        """The last change of the servers' folder if it has no other server since then."""
        self._last_problem: str | None = None

    # When this server starts

    def run(self, adopt: Callable[[KernelRecord], None]) -> None:
        """Call ``adopt`` with the record of each kernel that this server takes over.

        ``adopt`` raises ProcessLookupError when the kernel is gone. A record without a process
        is that of a kernel whose restart was interrupted before the new process existed, and
        ``adopt`` has to start that kernel. Never raises, because a server is useful without the
        kernels of earlier servers, too.
        """
        try:
            server_ids = self._servers.list_ids()
        except OSError as error:
            self._warn(error)
            return
        for server_id in server_ids:
            if server_id != self._servers.server_id:
                self.take_over(server_id, adopt)
        for places, counts in (
            ("root directories", self._in_other_roots),
            ("namespaces", self._in_other_namespaces),
        ):
            if counts:
                self._log.info(
                    "Kernels that dead servers have left in other %s go on running. "
                    "A server that starts there takes them over: %s",
                    places,
                    ", ".join(f"{place} ({count})" for place, count in sorted(counts.items())),
                )

    # While this server runs

    def find_left(self) -> dict[str, list[KernelRecord]]:
        """Return the kernels in our root directory that dead servers have left, by server.

        A server is left out once it was passed to ``take_over`` or ``leave``. Never raises.
        """
        try:
            dead = self._find_dead()
            found = defaultdict(list)
            for record in self._records.read_all() if dead else ():
                if record.server_id in dead and self._is_ours(record):
                    found[record.server_id].append(record)
        except OSError as error:
            self._warn(error)
            return {}
        for server_id in dead - found.keys():
            self.leave(server_id)
        return found

    def _is_ours(self, record: KernelRecord) -> bool:
        """Return whether this server is a successor of the kernel's, as far as is known."""
        if record.root_dir != self._root_dir:
            return False
        return None in (record.namespace, self.namespace) or record.namespace == self.namespace

    def _find_dead(self) -> set[str]:
        """Return the dead servers that need another look, and forget those that are gone."""
        change = self._servers.last_change()
        server_ids = set(self._servers.list_ids()) - {self._servers.server_id}
        self._note_others(server_ids, change)
        self._settled = {each: sign for each, sign in self._settled.items() if each in server_ids}
        others = {each for each in server_ids if not self._is_settled(each)}
        # Almost all of them are alive.
        others = {each for each in others if not self._servers.holds_lock(each)}
        return {each for each in others if self._servers.state(each) is State.DEAD}

    def _note_others(self, others: Collection[str], change: tuple[int, int] | None) -> None:
        now = time.monotonic()
        if change != self._last_change:
            self._last_change, self._change_seen = change, now
        # A server that came in the moment of the last change would not be noticed by its value.
        is_certain = not others and now - self._change_seen >= _MOMENT
        self._alone_since = change if is_certain else None

    def is_alone(self) -> bool:
        """Return whether there was no other server in the last look, and none has come since.

        False says nothing. Unlike the other methods, this may be used in any thread, and it is
        only one system call. It relies on the time of the folder's last change.
        """
        since = self._alone_since
        return since is not None and since == self._servers.last_change()

    def _is_settled(self, server_id: str) -> bool:
        # A server that is about to register looks dead for a moment, and lives on after that.
        sign = self._settled.get(server_id)
        return sign is not None and sign == self._servers.last_sign(server_id)

    def leave(self, server_id: str) -> None:
        """Leave what a dead server has left to another server."""
        self._settled[server_id] = self._servers.last_sign(server_id)

    # Always

    def take_over(self, server_id: str, adopt: Callable[[KernelRecord], None]) -> None:
        """Adopt or end the kernels of a server if it is dead and no other server does so.

        For ``adopt``, see ``run``. Never raises.
        """
        lock = self._servers.take_over(server_id)
        if lock is None:
            return
        # Whatever fails would fail in the same way if it was tried again soon.
        self.leave(server_id)
        try:
            self._take_over(server_id, lock, adopt)
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        # Repeat it only if the problem changes.
        level = logging.DEBUG if self._last_problem == str(error) else logging.WARNING
        self._last_problem = str(error)
        self._log.log(
            level,
            "Kernels of earlier servers are not taken over: %s",
            explain(error, self._records.folder),
            exc_info=None if isinstance(error, OSError) else error,
        )

    def _take_over(
        self, server_id: str, lock: FileLock, adopt: Callable[[KernelRecord], None]
    ) -> None:
        """Adopt or end a dead server's kernels. Close its lock when all of this is done."""
        ending: list[KernelRecord] = []
        done = False
        try:
            done = self._process_records(server_id, adopt, ending)
        finally:

            def finish(ended: bool) -> None:
                if done and ended:
                    self._servers.forget(server_id)
                lock.close()

            # Hold the lock until the kernels have ended, so that no other server adopts them.
            self._ender.end(ending, finish) if ending else finish(True)

    def _process_records(
        self,
        server_id: str,
        adopt: Callable[[KernelRecord], None],
        ending: list[KernelRecord],
    ) -> bool:
        """Return whether nothing is left of the server except the kernels in ``ending``."""
        self._records.remove_drafts(server_id)
        # Read the records under the lock. Before that, the server may have been alive, or
        # another server may have taken over its kernels.
        kernel_ids = self._records.list_ids()
        done = []
        for kernel_id in kernel_ids:
            record = self._records.read(kernel_id)
            if record is None:
                # An unreadable record may belong to the dead server, unless it is another user's.
                done.append(self._is_foreign_or_gone(kernel_id))
            elif record.server_id == server_id:
                done.append(self._try_to_process(record, adopt, ending))
        return all(done)

    def _is_foreign_or_gone(self, kernel_id: str) -> bool:
        try:
            return self._records.is_foreign(kernel_id)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _try_to_process(
        self,
        record: KernelRecord,
        adopt: Callable[[KernelRecord], None],
        ending: list[KernelRecord],
    ) -> bool:
        try:
            return self._process(record, adopt, ending)
        except Exception as error:
            # One kernel must not prevent this server from starting or adopting the others.
            self._log.warning(
                "Kernel %s could not be taken over and is left as it is. "
                "The next server that starts will try again: %s",
                record.kernel_id,
                explain(error, self._records.folder),
                exc_info=None if isinstance(error, OSError) else error,
            )
            return False

    def _process(
        self,
        record: KernelRecord,
        adopt: Callable[[KernelRecord], None],
        ending: list[KernelRecord],
    ) -> bool:
        """Adopt or forget the kernel, or add it to ``ending``. Return False if none applies."""
        if is_elsewhere(record):
            return self._forget_elsewhere(record)
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
            # The server died before it told any client about this kernel.
            ending.append(record)
        elif self._servers.was_ending(record.server_id):
            self._log.info(
                "Ending kernel %s, because its server died while it shut its kernels down",
                record.kernel_id,
            )
            ending.append(record)
        elif self._is_ours(record):
            self._adopt(record, adopt)
        elif self._is_too_late(record):
            self._log.info(
                "Ending kernel %s: no server has started in its root directory %s within the "
                "orphan_timeout",
                record.kernel_id,
                record.root_dir,
            )
            ending.append(record)
        else:
            if record.process is not None:
                self._count_elsewhere(record)
            return False
        return True

    def _count_elsewhere(self, record: KernelRecord) -> None:
        if record.root_dir != self._root_dir:
            self._in_other_roots[record.root_dir] += 1
        elif record.namespace is not None:
            self._in_other_namespaces[record.namespace] += 1

    def _is_too_late(self, record: KernelRecord) -> bool:
        # The setting of the kernel's own server applies.
        timeout = record.orphan_timeout
        timeout = self._orphan_timeout if timeout is None else timeout
        return self._silent_for(record.server_id) > timeout

    def is_overdue(self, record: KernelRecord) -> bool:
        """Return whether the kernel, whose server is dead, would be ended if it is not adopted."""
        if is_elsewhere(record):
            return False
        if record.process is None and not record.restarting:
            return True
        return self._servers.was_ending(record.server_id) or self._is_too_late(record)

    def _adopt(self, record: KernelRecord, adopt: Callable[[KernelRecord], None]) -> None:
        try:
            adopt(record)
        except ProcessLookupError:
            self._forget(record)

    def _forget(self, record: KernelRecord) -> None:
        self._log.debug("Kernel %s ended while no server was managing it", record.kernel_id)
        forget_kernel(self._records, record)

    def _forget_elsewhere(self, record: KernelRecord) -> bool:
        """Forget a kernel of another host or container whose server was silent for too long."""
        if self._servers.silent_for(record.server_id) <= _ELSEWHERE_KEPT_FOR:
            return False
        forget_kernel(self._records, record)
        return True


def is_elsewhere(record: KernelRecord) -> bool:
    """Return whether the kernel ran on another host, or in another container on this host."""
    process = record.process
    if process is not None and process.boot_id and process.boot_id == boot_id():
        # The kernel ran on this host, even if the host name has changed since then.
        return process.pid_namespace != pid_namespace()
    return record.host != socket.gethostname()
