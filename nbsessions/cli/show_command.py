"""``jupyter nbsessions show``."""

from __future__ import annotations

from rich.table import Table

from nbsessions.cli.command import ALL_NAMESPACES_FLAG, FLAGS, JSON_FLAG, Command
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import format_bytes, format_duration, plain, write_json
from nbsessions.cli.selection import select_one
from nbsessions.cli.values import Entry

_FLAGS = {**FLAGS, **JSON_FLAG, **ALL_NAMESPACES_FLAG}


class ShowCommand(Command):
    """Shows one session."""

    name = "jupyter-nbsessions-show"
    description = """Show everything known about one session, given by its id, the beginning of its
    id, or its path. Name a kernel without a session by the kernel's id.

    With --json, the output is an object with the keys of `list --json`, and also created
    (ISO 8601), connections and root_dir.
    """
    examples = """
jupyter nbsessions show folder/notebook.ipynb
jupyter nbsessions show 1b9f --json
"""
    flags = _FLAGS

    def run(self) -> int:
        """Print what is known."""
        if len(self.extra_args) != 1:
            raise CommandError("`show` takes one id or path")
        entry = select_one(self.overview(), self.extra_args[0])
        if self.json:
            write_json(entry.to_full_json())
        else:
            self.out.print(_table(entry))
        return 0


def _table(entry: Entry) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    idle = entry.idle_seconds
    for key, value in entry.to_full_json().items():
        if value is None:
            continue
        if key == "memory_bytes":
            key, value = "memory", format_bytes(entry.memory)
        elif key == "idle_seconds":
            key, value = "idle for", format_duration(idle)
        elif key == "heartbeat_age_seconds":
            key, value = "heartbeat age", format_duration(value)
        table.add_row(key.replace("_", " "), plain(str(value)))
    return table
