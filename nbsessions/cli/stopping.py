"""Ends sessions through their running server, or by ending the process of an orphaned kernel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

from nbsessions.cli.errors import CommandError
from nbsessions.cli.local_kernels import LocalKernel
from nbsessions.cli.overview import Overview
from nbsessions.cli.remote_kernels import RemoteKernels
from nbsessions.cli.rest import ServerClient
from nbsessions.cli.values import Entry, ServerState
from nbsessions.registry.ending import KernelEnder, end_process
from nbsessions.registry.process import attach
from nbsessions.registry.records import KernelRecord

_MAX_PARALLEL_STOPS = 8


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result for one session, or for all entries of one orphaned kernel."""

    entries: Sequence[Entry]
    problem: str | None = None
    """Why they were not stopped. None if they have ended."""


class Stopper:
    """Ends entries of an overview. Kernels of live servers are left to those servers."""

    def __init__(self, overview: Overview, remote: RemoteKernels | None = None) -> None:
        """``remote`` ends kernels of a gateway. Without it, they are not ended."""
        self._overview = overview
        self._remote = remote
        self._ender = KernelEnder(overview.kernels.records)

    def stop(self, entries: Sequence[Entry]) -> Iterator[Outcome]:
        """End the entries in parallel, and yield the outcomes as they come in."""
        with contextlib.ExitStack() as stack:
            claims = self._claim_servers(entries, stack)
            pool = stack.enter_context(
                ThreadPoolExecutor(_MAX_PARALLEL_STOPS, thread_name_prefix="nbsessions-stopping")
            )
            jobs = [pool.submit(_outcome_of, *job) for job in self._jobs(entries, claims)]
            for job in as_completed(jobs):
                yield job.result()
            self._forget_servers(claims)

    def _jobs(
        self, entries: Sequence[Entry], claims: dict[str, bool]
    ) -> Iterator[tuple[list[Entry], Callable[[], None]]]:
        by_kernel: dict[str, list[Entry]] = {}
        by_gateway: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            gateway = self._overview.gateway_of(entry)
            if entry.server is ServerState.NONE and gateway is not None:
                by_gateway.setdefault((entry.namespace or "", gateway), []).append(entry)
            elif entry.server is ServerState.NONE:
                by_kernel.setdefault(entry.kernel_id, []).append(entry)
            else:
                yield [entry], partial(self._delete, entry)
        for kernel_id, sharing in by_kernel.items():
            yield sharing, partial(self._end, kernel_id, sharing, claims)
        for (namespace, gateway), sharing in by_gateway.items():
            yield sharing, partial(self._end_at_gateway, namespace, gateway, sharing)

    # Sessions of running servers

    def _delete(self, entry: Entry) -> None:
        if entry.server is ServerState.UNREACHABLE:
            raise CommandError("its server may still be running, but cannot be asked to end it")
        client = ServerClient(self._overview.server_of(entry))
        if entry.session_id is not None:
            client.delete_session(entry.session_id)
        elif entry.connections:
            raise CommandError("a client is connected to it")
        else:
            client.shutdown_kernel(entry.kernel_id)

    # Kernels of a gateway that no server serves

    def _end_at_gateway(self, namespace: str, gateway: str, entries: Sequence[Entry]) -> None:
        if self._remote is None:
            raise CommandError("its store cannot be changed from here")
        self._remote.end(
            namespace,
            gateway,
            session_ids={each.session_id for each in entries if each.session_id is not None},
            kernel_ids={each.kernel_id for each in entries},
        )

    # Kernels whose server is dead

    def _claim_servers(
        self, entries: Sequence[Entry], stack: contextlib.ExitStack
    ) -> dict[str, bool]:
        """Claim the dead servers, so that no other server adopts the kernels being ended."""
        kernels = (
            self._overview.kernels.find(entry.kernel_id)
            for entry in entries
            if entry.server is ServerState.NONE
        )
        server_ids = {each.record.server_id for each in kernels if each and each.record}
        servers = self._overview.kernels.servers
        return {each: stack.enter_context(servers.claim(each)) for each in sorted(server_ids)}

    def _end(self, kernel_id: str, entries: Sequence[Entry], claims: dict[str, bool]) -> None:
        others = [each for each in self._overview.sharing(kernel_id) if each not in entries]
        if others:
            names = ", ".join(other.label for other in others)
            raise CommandError(
                f"its kernel is also used by {names}: stop them together, or start a server"
            )
        kernel = self._overview.kernels.find(kernel_id)
        if kernel is None:
            raise CommandError(_where(entries))
        if kernel.record is None:
            _end_unrecorded(kernel)
        else:
            self._end_recorded(kernel, kernel.record, claims)

    def _end_recorded(
        self, kernel: LocalKernel, listed: KernelRecord, claims: dict[str, bool]
    ) -> None:
        # Read the record again under the claim: another process may have taken the kernel over.
        record = self._overview.kernels.records.read(listed.kernel_id)
        if record is not None and (
            record.server_id != listed.server_id or not claims[listed.server_id]
        ):
            raise CommandError("a server has just taken over its kernel: try again")
        if record is None:
            if self._overview.kernels.records.exists(listed.kernel_id):
                raise CommandError("the record of its kernel cannot be read")
            return
        identity = record.process or kernel.identity
        if not self._ender.end_now(record, identity):
            raise CommandError(
                f"process {kernel.identity.pid} did not end, or its record cannot be removed"
            )

    def _forget_servers(self, claims: dict[str, bool]) -> None:
        records = self._overview.kernels.records
        try:
            found = [records.read(kernel_id) for kernel_id in records.list_ids()]
        except OSError:
            return  # The next server that starts forgets them.
        # A record that cannot be read may be that of any server.
        if None in found:
            return
        remaining = {record.server_id for record in found if record is not None}
        for server_id, claimed in claims.items():
            if claimed and server_id not in remaining:
                self._overview.kernels.servers.forget(server_id)


def _outcome_of(entries: Sequence[Entry], job: Callable[[], None]) -> Outcome:
    try:
        job()
    except (CommandError, OSError) as error:
        return Outcome(entries=entries, problem=str(error))
    return Outcome(entries=entries)


def _where(entries: Sequence[Entry]) -> str:
    """Tell where to end a kernel that does not run on this machine, if it runs at all."""
    hosts = sorted({each.owner.owner.host for each in entries if each.owner is not None})
    there = f" If it still runs, it can be stopped on {', '.join(hosts)}" if hosts else ""
    return f"its kernel does not run here, and no server is there to end it.{there}"


def _end_unrecorded(kernel: LocalKernel) -> None:
    with contextlib.suppress(ProcessLookupError):
        if not end_process(attach(kernel.identity)):
            raise CommandError(f"process {kernel.identity.pid} did not end")
    with contextlib.suppress(OSError):
        os.unlink(kernel.connection_file)
