"""Writes the records of this server's kernels in a background thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace
from tornado.ioloop import PeriodicCallback

from nbsessions.kernels import internals
from nbsessions.kernels.base import current_start
from nbsessions.kernels.surviving.output import KernelOutput
from nbsessions.registry.records import KernelRecord, KernelRecords
from nbsessions.registry.servers import Servers
from nbsessions.registry.trouble import explain

T = TypeVar("T")

_FLUSH_INTERVAL = 1.0


class KernelRecorder:
    """Writes a kernel's record before and after its launch, and whenever the kernel changes."""

    def __init__(
        self,
        records: KernelRecords,
        servers: Servers,
        output: KernelOutput,
        *,
        root_dir: str,
        orphan_timeout: float,
        output_limit: int,
        total_output_limit: int,
        log: logging.Logger,
    ) -> None:
        self.namespace: str | None = None
        """That of the sessions of this server's kernels. None if it is not known."""
        self._orphan_timeout = orphan_timeout
        self._output_limit = output_limit
        self._total_output_limit = total_output_limit
        self._records = records
        self._servers = servers
        self._output = output
        self._root_dir = root_dir
        self._log = log
        self._current: dict[str, KernelRecord] = {}
        self._kernels: dict[str, Any] = {}
        """The managers of the running kernels that have a record, by kernel id."""
        self._unwritten: set[str] = set()
        # A single thread, so that writes happen in order.
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="nbsessions-records")
        self._flushing = PeriodicCallback(self._flush, _FLUSH_INTERVAL * 1000)
        self._registering = threading.Lock()
        self._registered = False
        self._last_problem: str | None = None
        """The error if the last kernel to be launched could not be recorded."""
        self._closed = False

    def register(self) -> None:
        """Register this server as one that has kernels. Idempotent. Raises OSError."""
        # Repeat this on each call, because the folders may have been removed.
        # A kernel may be adopted while the thread registers for one that starts.
        with self._registering:
            self._records.make_folder()
            self._servers.register()
            if not self._registered:
                self._registered = True
                # A server without kernels may exit without calling `shutdown_all`.
                atexit.register(self.close)

    # The life cycle of a kernel

    async def launching(self, kernel: Any, kernel_id: str) -> bool:
        """Record that a process will be launched for the kernel. Return whether this succeeded."""
        try:
            await self._write(self._new_record(kernel, kernel_id))
            await self._in_thread(self._check_log, kernel_id)
        except (OSError, RuntimeError, ValueError) as error:
            # The disk is full, the server is stopping, or a value cannot be encoded as JSON.
            self.forget(kernel_id)
            self._warn_unrecorded(kernel_id, error)
            return False
        self._last_problem = None
        return True

    def _warn_unrecorded(self, kernel_id: str, error: Exception) -> None:
        # Warn once, not for every kernel, until the error changes.
        level = logging.DEBUG if self._last_problem == str(error) else logging.WARNING
        self._last_problem = str(error)
        self._log.log(
            level,
            "Kernel %s will end with this server, and so will other new kernels, because their "
            "records cannot be written: %s",
            kernel_id,
            explain(error, self._records.folder),
        )

    def _new_record(self, kernel: Any, kernel_id: str) -> KernelRecord:
        request = current_start.get()
        arguments = internals.launch_arguments(kernel)
        record = KernelRecord(
            kernel_id=kernel_id,
            server_id=self._servers.server_id,
            host=socket.gethostname(),
            root_dir=self._root_dir,
            namespace=self.namespace,
            orphan_timeout=self._orphan_timeout,
            output_limit=self._output_limit,
            total_output_limit=self._total_output_limit,
            kernel_name=kernel.kernel_name,
            kernel_spec=_spec_to_dict(kernel.kernel_spec),
            # The same path as in the kernel's command line.
            connection_file=os.path.realpath(kernel.connection_file),
            connection_info=_info_to_dict(kernel.get_connection_info()),
            cwd=arguments.get("cwd"),
            session_id=None if request is None else request.session_id,
            token=None if request is None else request.token,
        )
        previous = self._current.get(kernel_id)
        if previous is not None:
            # This is a restart. The kernel still belongs to the session that it was started for,
            # even if the restart runs in the context of another start.
            record = replace(
                record,
                adopted=previous.adopted,
                restarting=previous.restarting,
                session_id=previous.session_id,
                token=previous.token,
            )
        return record

    async def restarting(self, kernel_id: str) -> None:
        """Record that the kernel will be restarted. Call this before its process ends."""
        record = self._current.get(kernel_id)
        if record is not None:
            with contextlib.suppress(OSError, RuntimeError):
                await self._write(replace(record, restarting=True))

    async def launched(self, kernel: Any, kernel_id: str) -> None:
        """Record the process that was launched."""
        record = self._current[kernel_id]
        record = replace(record, process=kernel.provisioner.identity, restarting=False)
        record = self._current[kernel_id] = _with_environment(record, kernel)
        self.follow(kernel, kernel_id)
        with contextlib.suppress(OSError, RuntimeError):
            # The record from before the launch is sufficient to find the process.
            await self._write(record)

    def announce(self, kernel_id: str) -> None:
        """Tell the one who asked for the kernel that its process runs."""
        request, record = current_start.get(), self._current.get(kernel_id)
        # A restart may run in the context of another start.
        if request is not None and record is not None and request.token == record.token:
            request.launched(kernel_id, record.kernel_name)

    def adopted(self, kernel: Any, record: KernelRecord) -> None:
        """Make this server the owner of another server's kernel record. Blocks. Raises OSError."""
        record = replace(
            record,
            server_id=self._servers.server_id,
            namespace=self.namespace,
            orphan_timeout=self._orphan_timeout,
            output_limit=self._output_limit,
            total_output_limit=self._total_output_limit,
            adopted=True,
            restarting=record.process is None,
        )
        self._records.write(record)
        self._current[record.kernel_id] = record
        self.follow(kernel, record.kernel_id, record.logged)

    def follow(self, kernel: Any, kernel_id: str, logged: int | None = None) -> None:
        """Start to record the kernel's changes, and to copy its output to the server's output.

        ``logged`` is the number of bytes of the log file that have already been copied.
        """
        self._kernels[kernel_id] = kernel
        if logged is None:
            logged = self._output.position(kernel_id)
        self._output.follow(kernel_id, partial(self._records.read_log, kernel_id), logged)
        if not self._flushing.is_running():
            self._flushing.start()

    def renamed(self, kernel_id: str) -> None:
        """Record the environment for the kernel's next restart."""
        kernel = self._kernels.get(kernel_id)
        if kernel is not None and not self._closed:
            record = _with_environment(self._current[kernel_id], kernel)
            self._current[kernel_id] = record
            self._writing.submit(self._write_all, [record])

    def forget(self, kernel_id: str) -> None:
        """Remove the record of a kernel that has ended or ends with this server. Idempotent."""
        self._kernels.pop(kernel_id, None)
        if self._current.pop(kernel_id, None) is None:
            return
        if self._closed:
            self._remove(kernel_id)
        else:
            self._writing.submit(self._remove, kernel_id)

    def _remove(self, kernel_id: str) -> None:
        self._output.forget(kernel_id)
        self._records.remove(kernel_id)

    # Queries

    def has(self, kernel_id: str) -> bool:
        """Return whether the kernel's process is recorded, so that it can be left running."""
        record = self._current.get(kernel_id)
        return record is not None and record.process is not None

    def find_started(self, token: str) -> str | None:
        """Return the id of the kernel with this start token, or None."""
        found = (each.kernel_id for each in self._current.values() if each.token == token)
        return next(found, None)

    def had_clients(self, kernel_id: str) -> bool:
        """Return whether clients were connected to the kernel when its record was written."""
        record = self._current.get(kernel_id)
        return record is not None and bool(record.clients)

    def is_adopted(self, kernel_id: str) -> bool:
        """Return whether this server adopted the kernel from a dead server."""
        record = self._current.get(kernel_id)
        return record is not None and record.adopted

    def list_adopted(self) -> list[str]:
        """Return the ids of the kernels that this server adopted from dead servers."""
        return [each.kernel_id for each in self._current.values() if each.adopted]

    # Changes

    def _flush(self) -> None:
        changed = list(self._changes())
        self._writing.submit(self._write_all, changed)

    def _changes(self) -> Iterable[KernelRecord]:
        clients: dict[str, list[str]] = defaultdict(list)
        for kernel_id, client in internals.open_websockets():
            clients[kernel_id].append(client)
        for kernel_id, kernel in self._kernels.items():
            previous = self._current[kernel_id]
            record = replace(
                previous,
                execution_state=kernel.execution_state or previous.execution_state,
                last_activity=_last_activity(kernel) or previous.last_activity,
                protocol_version=internals.protocol_version(kernel) or previous.protocol_version,
                clients=clients.get(kernel_id, previous.clients),
                logged=self._output.position(kernel_id),
            )
            if record != previous:
                self._current[kernel_id] = record
                yield record

    def _write_all(self, changed: Iterable[KernelRecord]) -> None:
        self._servers.touch()
        records = {record.kernel_id: record for record in (*self._missing(), *changed)}
        for record in records.values():
            try:
                self._register_and_write(record)
            except OSError as error:
                if record.kernel_id not in self._unwritten:
                    self._log.warning(
                        "No record written for kernel %s: %s", record.kernel_id, error
                    )
                self._unwritten.add(record.kernel_id)
            else:
                self._unwritten.discard(record.kernel_id)

    def _missing(self) -> list[KernelRecord]:
        """Return the records whose files were removed.

        These are all records if this server's lock file was removed, because other servers then
        no longer see this server as the owner.
        """
        current = list(self._current.values())
        if not current:
            return []
        try:
            present = set(self._records.list_ids() if self._servers.is_registered() else ())
        except OSError:
            return []
        return [record for record in current if record.kernel_id not in present]

    async def _write(self, record: KernelRecord) -> None:
        # Update `_current` before writing, so that a concurrent flush does not write an older
        # record afterwards.
        self._current[record.kernel_id] = record
        await self._in_thread(self._register_and_write, record)

    async def _in_thread(self, function: Callable[[T], None], argument: T) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writing, function, argument)

    def _register_and_write(self, record: KernelRecord) -> None:
        self.register()
        self._records.write(record)

    def _check_log(self, kernel_id: str) -> None:
        os.close(self._records.open_log(kernel_id))

    def close(self) -> None:
        """Write all changes and release the server's lock. Idempotent.

        Kernels that still have a record are those that go on running.
        """
        if self._closed:
            return
        self._closed = True
        self._flushing.stop()
        self._output.close()
        changed = list(self._changes())
        self._writing.shutdown(wait=True)
        self._write_all(changed)
        self._servers.unregister(kernels_left=bool(self._current))
        atexit.unregister(self.close)


def _last_activity(kernel: Any) -> datetime | None:
    # The trait has no value before the kernel has started.
    return kernel.last_activity if kernel.trait_has_value("last_activity") else None


def _with_environment(record: KernelRecord, kernel: Any) -> KernelRecord:
    """Return the record with the environment that the kernel's next restart will use."""
    env = internals.launch_arguments(kernel).get("env")
    if env is None:
        return record
    return replace(
        record,
        env={name: value for name, value in env.items() if os.environ.get(name) != value},
        env_removed=[name for name in os.environ if name not in env],
    )


def _spec_to_dict(spec: Any) -> dict[str, Any]:
    return {**spec.to_dict(), "resource_dir": spec.resource_dir}


def _info_to_dict(info: Any) -> dict[str, Any]:
    return {
        name: value.decode() if isinstance(value, bytes) else value for name, value in info.items()
    }
