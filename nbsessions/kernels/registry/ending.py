"""Ends kernels that no server has: with a signal, and a harder one when they do not go."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from nbsessions.kernels.registry.process import (
    AttachedProcess,
    ProcessIdentity,
    attach,
    identify,
)
from nbsessions.kernels.registry.records import KernelRecord, KernelRecords, forget_kernel

_GRACE = 5.0
"""Seconds that a kernel has to end after SIGTERM."""


class KernelEnder:
    """Ends kernels behind the caller. Their records go when they have gone."""

    def __init__(self, records: KernelRecords) -> None:
        self._records = records

    def end(self, records: Sequence[KernelRecord], finished: Callable[[bool], object]) -> None:
        """Start ending the kernels; in the end, ``finished`` is told whether all are gone."""
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
        """End the kernel and wait for it; return whether it is gone."""
        identity = identity or record.process
        if identity is not None:
            try:
                process = attach(identity)
            except ProcessLookupError:
                pass
            else:
                if not end_process(process):
                    return False
        current = self._records.read(record.kernel_id)
        # Another server may have adopted it meanwhile, and started it again.
        if current is None or current.server_id == record.server_id:
            forget_kernel(self._records, record)
        return True


def _start(work: Callable[..., None], *arguments: object) -> threading.Thread:
    # A daemon: what is not ended when this server goes is ended by the next one.
    thread = threading.Thread(target=work, args=arguments, name="nbsessions-ending", daemon=True)
    thread.start()
    return thread


def end_process(process: AttachedProcess) -> bool:
    """End a kernel's process with all that is in its group; return whether it is gone."""
    group = [process]
    for signum in (signal.SIGTERM, signal.SIGKILL):
        # One by one, since the id of a group whose leader has ended may become a stranger's.
        if process.poll() is None:
            group = [process, *_others_in_group(process.pid)]
        for each in group:
            with contextlib.suppress(OSError):
                each.send_signal(signum)
        if _have_ended(group):
            return True
    return process.poll() is not None


def _others_in_group(leader: int) -> Iterator[AttachedProcess]:
    import psutil  # takes longer than to start without it

    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            identity = identify(pid)
            if pid != leader and os.getpgid(pid) == leader:
                yield attach(identity)


def _have_ended(processes: list[AttachedProcess]) -> bool:
    deadline = time.monotonic() + _GRACE
    ends = [each.wait(max(0.0, deadline - time.monotonic())) for each in processes]
    return None not in ends
