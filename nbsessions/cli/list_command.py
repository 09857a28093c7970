"""``jupyter nbsessions list``."""

from __future__ import annotations

from traitlets import Bool

from nbsessions.cli.command import FLAGS, JSON_FLAG, Command
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import session_table, write_json

_FLAGS = {
    **FLAGS,
    **JSON_FLAG,
    "orphans": (
        {"ListCommand": {"orphans": True}},
        "List the kernels that no server has; those without a session have an empty path.",
    ),
}


class ListCommand(Command):
    """Lists sessions, or the kernels that no server has."""

    name = "jupyter-nbsessions-list"
    description = """List the sessions of all running servers, and those whose server is dead
    while their kernel goes on running: the next server of the same root directory takes these
    over.

    With --json, an array of objects with the keys id, path, name, type, kernel_id, kernel_name,
    state, last_activity (ISO 8601), idle_seconds, pid, memory_bytes (of the kernel and all
    that it has started), server ("running", "unreachable" or "none") and server_url. What is
    not known is null. Where no server could be asked, the state is the last known one.
    """
    examples = """
jupyter nbsessions list
jupyter nbsessions list --orphans
jupyter nbsessions list --json
"""
    flags = _FLAGS

    orphans = Bool(False, help="Whether to list the kernels that no server has.").tag(config=True)

    def run(self) -> int:
        """Write the list."""
        if self.extra_args:
            raise CommandError("`list` takes no names: use `show` for a single session")
        overview = self.overview()
        entries = overview.orphans if self.orphans else overview.sessions
        if self.json:
            write_json([entry.to_json() for entry in entries])
        elif entries:
            self.out.print(session_table(entries))
        else:
            self.say("No kernel is without a server" if self.orphans else "There are no sessions")
        if not self.orphans:
            self._mention([entry for entry in overview.orphans if entry.session_id is None])
        return 0

    def _mention(self, orphans: list[object]) -> None:
        if orphans:
            self.say(
                f"Kernels without a session and a server: {len(orphans)}, "
                "see `jupyter nbsessions list --orphans`"
            )
