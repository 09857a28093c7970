"""``jupyter nbsessions list``."""

from __future__ import annotations

from collections.abc import Sequence

from traitlets import Bool

from nbsessions.cli.command import ALL_NAMESPACES_FLAG, FLAGS, JSON_FLAG, Command
from nbsessions.cli.errors import CommandError
from nbsessions.cli.keeper.state import read_state
from nbsessions.cli.output import format_size, session_table, write_json
from nbsessions.cli.overview import Overview
from nbsessions.cli.values import Entry, ServerState

_FLAGS = {
    **FLAGS,
    **JSON_FLAG,
    **ALL_NAMESPACES_FLAG,
    "orphans": (
        {"ListCommand": {"orphans": True}},
        "List the kernels whose server is dead, those of a gateway whose start or end was cut "
        "short, and those that a running server has taken over without a session. Kernels without "
        "a session have an empty path.",
    ),
}


class ListCommand(Command):
    """Lists sessions, or the kernels without a server or without a session."""

    name = "jupyter-nbsessions-list"
    description = """List the sessions of all running servers. Sessions whose server is dead are
    listed too while their kernel is still running: the next server with the same root directory
    takes them over. If a gateway runs their kernels, their state is unknown until then. The owner
    is the host of the server that has written the session to the store.

    With --json, the output is an array of objects with the keys id, path, name, type, kernel_id,
    kernel_name, kernel_location ("local", or the URL of the gateway that runs the kernel), state,
    last_activity (ISO 8601), idle_seconds, pid, memory_bytes (of the kernel and all its child
    processes), server ("running", "unreachable" or "none"), server_url, namespace, owner (the id
    of the run of the server), host, owner_state ("live", "silent" or "dead") and
    heartbeat_age_seconds (by the clock of the store). Unknown values are null. If the server could
    not be asked, state is the last known one.
    """
    examples = """
jupyter nbsessions list
jupyter nbsessions list --orphans
jupyter nbsessions list --json
jupyter nbsessions list --store postgresql://host/database --all-namespaces
"""
    flags = _FLAGS

    orphans = Bool(
        False, help="Whether to list the kernels without a server or without a session."
    ).tag(config=True)

    def run(self) -> int:
        """Print the list."""
        if self.extra_args:
            raise CommandError("`list` takes no arguments: use `show` for a single session")
        overview = self.overview()
        entries = overview.orphans if self.orphans else overview.sessions
        if self.json:
            write_json([entry.to_json() for entry in entries])
        elif entries:
            self.out.print(session_table(entries, namespaces=self.all_namespaces))
        else:
            self.say(overview.no_orphans if self.orphans else overview.no_sessions)
        without = [entry for entry in overview.orphans if entry.session_id is None]
        if self.orphans:
            self._tell_how_to_reach(without)
        elif without:
            self.say(
                f"Kernels without a session: {len(without)}, see "
                "`jupyter nbsessions list --orphans`"
            )
        if not self.json:
            self._tell_what_is_kept(overview)
        return 0

    def _tell_what_is_kept(self, overview: Overview) -> None:
        state = read_state(self.runtime_path, overview.kernels)
        waiting = list(filter(None, map(state.waiting, state.kernels)))
        if waiting:
            kernels = "1 kernel" if len(waiting) == 1 else f"{len(waiting)} kernels"
            self.say(
                f"Kept for pages that are away: {format_size(sum(waiting))} of {kernels}, see "
                "`jupyter nbsessions keeper`"
            )

    def _tell_how_to_reach(self, entries: Sequence[Entry]) -> None:
        kept = [entry for entry in entries if entry.server is ServerState.RUNNING]
        if kept and not self.json:
            self.say(
                "To use a kernel that a server has taken over, right-click it in JupyterLab under "
                "Running Terminals and Kernels, or run:"
            )
            for entry in kept:
                self.say(f"  jupyter console --existing kernel-{entry.kernel_id}.json")
