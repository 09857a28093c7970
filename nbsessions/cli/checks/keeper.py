"""Checks that what kernels say is kept while nobody can receive it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence

from traitlets.config import Config

from nbsessions.cli.checks.finding import Finding, ok, warning
from nbsessions.cli.checks.survival import SECTIONS
from nbsessions.cli.configuration import configured
from nbsessions.cli.gateway import uses_gateway
from nbsessions.cli.keeper.state import KeeperState
from nbsessions.cli.output import format_size
from nbsessions.cli.overview import Overview
from nbsessions.keeper.addresses import has_known_transport
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.private import SUPPORTED, PrivateFolder
from nbsessions.registry.records import KernelRecord
from nbsessions.registry.trouble import explain

CHECK = "keeper"
_OVERHEAD = 1.2
"""The files may be a fifth larger than the limit."""


def check_keeper(config: Config, state: KeeperState, overview: Overview) -> Iterator[Finding]:
    """Warn about anything that keeps the keeper from its work. None of it is an error."""
    if not SUPPORTED:
        return  # check_survival reports the platform.
    yield from _check_configuration(config)
    yield from _check_folders(state.folder)
    yield from _check_process(state)
    yield from _check_kernels(state)
    if not uses_gateway(config):
        yield from _check_unrecorded(overview)
    yield from _check_space(state)


def _check_configuration(config: Config) -> Iterator[Finding]:
    values = (configured(config, section, "keep_output") for section in SECTIONS)
    keeps = next((value for value in values if value is not None), True)
    if str(keeps).lower() in ("false", "0"):
        yield warning(
            CHECK, "keep_output is False: what kernels say while nobody can receive it is lost"
        )


def _check_folders(folder: KeeperFolder) -> Iterator[Finding]:
    found = (
        _trouble(each) for each in (folder.folder, folder.spools, folder.marks, folder.clients)
    )
    for problem in dict.fromkeys(filter(None, found)):
        yield warning(CHECK, f"nothing can be kept: {problem}")
    if not folder.has_address():
        yield warning(
            CHECK,
            f"the path of the keeper's socket is too long: {folder.path}",
            "set JUPYTER_RUNTIME_DIR to a folder with a shorter path",
        )


def _trouble(folder: PrivateFolder) -> str | None:
    """Return why a folder cannot be used. None if it can, or is not there yet."""
    try:
        with folder.opened():
            return None
    except FileNotFoundError:
        return None
    except OSError as problem:
        return explain(problem, folder.path)


def _check_process(state: KeeperState) -> Iterator[Finding]:
    problem = state.problem
    if problem is not None:
        yield warning(CHECK, problem[:1].lower() + problem[1:], state.remedy)
    elif state.status is None:
        yield ok(CHECK, state.absence[:1].lower() + state.absence[1:])
    else:
        yield ok(
            CHECK,
            f"process {state.pid} keeps what {_count(len(state.kernels))} said: "
            f"{format_size(state.kept_bytes)}",
        )
        if state.is_outdated:
            yield ok(
                CHECK,
                f"the keeper is of an earlier release: it has version {state.status.version} of "
                "the protocol. The next server of this release that starts or takes over a kernel "
                "replaces it",
            )


def _check_kernels(state: KeeperState) -> Iterator[Finding]:
    silent = [each for each in state.records if not each.output_limit]
    if silent:
        yield warning(
            CHECK,
            f"nothing is kept of what {_count(len(silent))} said, because keep_output was False "
            f"at the start: {_names(silent)}",
        )
    unknown = [each for each in state.records if not has_known_transport(each.connection_info)]
    if unknown:
        yield warning(
            CHECK,
            f"nothing is kept of what {_count(len(unknown))} said, because the transport is "
            f"unknown: {_names(unknown)}",
        )
    missed = [each for each in state.audible if each.kernel_id not in state.kernels]
    if missed and state.status is not None:
        yield warning(
            CHECK,
            f"the keeper does not listen to {_count(len(missed))}: {_names(missed)}",
            f"see {state.folder.path / 'log'}",
        )


def _check_unrecorded(overview: Overview) -> Iterator[Finding]:
    kernel_ids = {str(model.get("id")) for each in overview.answers for model in each.kernels}
    without = sorted(each for each in kernel_ids if _is_unrecorded(overview, each))
    if without:
        yield warning(
            CHECK,
            f"nothing is kept of what {_count(len(without))} said, because there is no record: "
            f"{', '.join(each[:8] for each in without)}",
            "the kernelspec has a provisioner of its own, or the server does not let kernels "
            "outlive it: see its log",
        )


def _is_unrecorded(overview: Overview, kernel_id: str) -> bool:
    if any(overview.gateway_of(each) is not None for each in overview.sharing(kernel_id)):
        return False
    try:
        return not overview.kernels.records.exists(kernel_id)
    except OSError:
        return False  # check_records reports it.


def _check_space(state: KeeperState) -> Iterator[Finding]:
    records = state.audible
    more = sum(_growth(state, each) for each in records)
    limits = [each.total_output_limit for each in records if each.total_output_limit]
    if limits:
        more = min(more, max(0, min(limits) - state.kept_bytes))
    folder = state.folder.spools.path
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # _check_folders reports it.
    if more > free:
        yield warning(
            CHECK,
            f"the files of {_count(len(records))} may take {format_size(more)} more, but "
            f"{folder} has only {format_size(free)}",
            "set JUPYTER_RUNTIME_DIR to a folder with more space, or "
            "c.SurvivingKernels.output_limit or total_output_limit to a smaller number",
        )


def _growth(state: KeeperState, record: KernelRecord) -> int:
    kept = state.kernels.get(record.kernel_id)
    size = 0 if kept is None else kept.bytes
    return max(0, int(_OVERHEAD * record.output_limit) - size)


def _names(records: Sequence[KernelRecord]) -> str:
    return ", ".join(each.kernel_id[:8] for each in records)


def _count(kernels: int) -> str:
    return "1 kernel" if kernels == 1 else f"{kernels} kernels"
