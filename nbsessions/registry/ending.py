"""Ends kernels that no server owns, with SIGTERM and, if that is not enough, SIGKILL."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from nbsessions.registry.process import (
    AttachedProcess,
    ProcessIdentity,
    attach,
    identify,
)
from nbsessions.registry.records import KernelRecord, KernelRecords, forget_kernel

_GRACE = 5.0
"""Seconds to wait for a kernel to end after each signal."""


class KernelEnder:
    """Ends kernels in background threads, and removes the records of those that have ended."""

    def __init__(self, records: KernelRecords) -> None:
        self._records = records

    def end(self, records: Sequence[KernelRecord], finished: Callable[[bool], object]) -> None:
        """Start to end the kernels, and return at once.

        ``finished`` is called in another thread, with whether all of the kernels have ended.
        """
        outcomes: list[bool] = []

        def end_one(record: KernelRecord) -> None:
            outcomes.append(self.end_now(record))

        def end_all() -> None:
            try:
                for thread in [_start(end_one, record) for record in records]:
                    thread.join()
            finally:
                finished(outcomes.count(True) == len(records))

        _start(end_all)

    def end_now(self, record: KernelRecord, identity: ProcessIdentity | None = None) -> bool:
        """End the kernel, wait for it, and return whether nothing is left of it. Blocks.

        ``identity`` is the kernel's process if it is not the one in the record.
        """
        identity = identity or record.process
        if identity is not None:
            try:
                process = attach(identity)
            except ProcessLookupError:
                pass
            else:
                if not end_process(process):
                    return False
        try:
            return self._forget(record)
        except OSError as error:
            self._records.log.warning(
                "The record of kernel %s, which has ended, cannot be removed: %s",
                record.kernel_id,
                error,
            )
            return False

    def _forget(self, record: KernelRecord) -> bool:
        current = self._records.read(record.kernel_id)
        if current is None and self._records.exists(record.kernel_id):
            return False  # It cannot be read.
        # Another server may have adopted the kernel in the meantime and started it again.
        if current is None or current.server_id == record.server_id:
            forget_kernel(self._records, record)
        return True


def _start(work: Callable[..., None], *arguments: object) -> threading.Thread:
    # A daemon thread. If this server exits first, the next one ends the remaining kernels.
    thread = threading.Thread(target=work, args=arguments, name="nbsessions-ending", daemon=True)
    thread.start()
    return thread


def end_process(process: AttachedProcess) -> bool:
    """End a kernel's process and its process group. Return whether the process has ended."""
    group = [process]
    for signum in (signal.SIGTERM, signal.SIGKILL):
        # Signal each process separately, because the id of a process group whose leader has
        # ended may be reused.
        if process.poll() is None:
            group = [process, *_others_in_group(process.pid)]
        for each in group:
            with contextlib.suppress(OSError):
                each.send_signal(signum)
        if _have_ended(group):
            return True
    return process.poll() is not None


def _others_in_group(leader: int) -> Iterator[AttachedProcess]:
    import psutil  # imported late, because the import is slow

    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            identity = identify(pid)
            if pid != leader and os.getpgid(pid) == leader:
                yield attach(identity)


def _have_ended(processes: list[AttachedProcess]) -> bool:
    deadline = time.monotonic() + _GRACE
    ends = [each.wait(max(0.0, deadline - time.monotonic())) for each in processes]
    return None not in ends
