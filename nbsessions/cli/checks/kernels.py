"""Checks for orphaned kernels, unreachable servers and exposed kernel keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nbsessions.cli.checks.finding import Finding, error, ok, warning
from nbsessions.cli.checks.permissions import exposed
from nbsessions.cli.overview import Overview
from nbsessions.cli.values import ServerState
from nbsessions.private import PrivateFolder
from nbsessions.registry.trouble import explain


def check_records(runtime_dir: Path) -> Iterator[Finding]:
    """Check that servers use the folders of kernels, and that no other user can read the keys."""
    check = "records-permissions"
    folders = PrivateFolder(runtime_dir.absolute() / "nbsessions")
    found = []
    for name in ("kernels", "servers"):
        folder = folders.folder(name)
        try:
            names = folder.list_names()
        except OSError as problem:
            found.append(error(check, explain(problem, folder.path)))
        else:
            paths = [folder.path / each for each in names if each.endswith(".json")]
            found += [each for path in (folder.path, *paths) for each in exposed(check, path)]
    yield from dict.fromkeys(found)
    if not found:
        yield ok(check, "nobody else can read the keys of kernels")


def check_running_servers(overview: Overview) -> Iterator[Finding]:
    """Check that running servers answer, and keep their sessions in the configured store."""
    for answer in overview.answers:
        server = answer.server
        if answer.trouble is not None:
            yield warning("server", str(answer.trouble))
        elif not overview.store_is_known:
            yield warning("server", f"it is not known whether {server.url} uses the store")
        elif overview.owner_of(server) is not None:
            yield ok("server", f"{server.url} keeps its sessions in the store")
        else:
            yield warning(
                "server",
                f"{server.url} keeps its sessions elsewhere",
                "it runs without nbsessions, is configured differently, or could not use the "
                "store when it started: see its log",
            )


def check_orphans(overview: Overview) -> Iterator[Finding]:
    """Look for kernels without a server or without a session."""
    hint = "jupyter nbsessions list --orphans, jupyter nbsessions stop --orphans"
    remote = [each for each in overview.orphans if overview.gateway_of(each) is not None]
    waiting = [each for each in remote if each.session_id is not None]
    if waiting:
        # This is how it is after each stop of a server.
        yield ok(
            "orphans",
            f"sessions of a gateway without a server: {len(waiting)}; the next server of their "
            "namespace serves them",
        )
    if len(waiting) < len(remote):
        yield warning(
            "orphans",
            f"kernels of a gateway whose start or stop was cut short: "
            f"{len(remote) - len(waiting)}; the next server of their namespace ends them",
            hint,
        )
    local = [each for each in overview.orphans if each not in remote]
    alone = {each.kernel_id for each in local if each.server is ServerState.NONE}
    if alone:
        yield warning(
            "orphans",
            f"{_count(len(alone))} without a server; the next server takes over those of its root "
            "directory",
            hint,
        )
    else:
        yield ok("orphans", "no kernel is without a server")
    kept = {each.kernel_id for each in local} - alone
    if kept:
        yield warning(
            "orphans", f"{_count(len(kept))} without a session, taken over by a server", hint
        )


def _count(kernels: int) -> str:
    return "1 kernel runs" if kernels == 1 else f"{kernels} kernels run"
