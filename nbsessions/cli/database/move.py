"""``jupyter nbsessions database move``."""

from __future__ import annotations

from typing import Any

from traitlets import List, Unicode

from nbsessions.cli.command import ALIASES, Command
from nbsessions.cli.database.stores import open_movable
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import plain
from nbsessions.errors import SessionError
from nbsessions.stores.moving import StoredRows, move

_ALIASES: dict[str, Any] = {
    **ALIASES,
    "from": "MoveCommand.source",
    "to": "MoveCommand.target",
    "namespace": "MoveCommand.renames",
}


class MoveCommand(Command):
    """Moves the contents of a store to another one."""

    name = "jupyter-nbsessions-database-move"
    description = """Move the sessions of all namespaces from an SQLite file to a PostgreSQL, or
    back, with what belongs to them. The source is left as it is. All is moved, or nothing.

    Stop all servers of the source first: the command refuses to move while one is running. It
    also refuses if the target has one of the namespaces already. In an SQLite file, namespaces are
    by default the root directories of servers. They can get other names on the way.
    """
    examples = """
jupyter nbsessions database move --from sqlite:///home/ada/sessions.db \\
    --to postgresql://host/database --namespace /home/ada=ada
"""
    aliases = _ALIASES

    source = Unicode(help="The URL of the store to move from.").tag(config=True)
    target = Unicode(help="The URL of the store to move to.").tag(config=True)
    renames = List(
        Unicode(),
        help="A new name for a namespace, as OLD=NEW. May be given several times.",
    ).tag(config=True)

    def run(self) -> int:
        """Move everything."""
        if self.extra_args:
            raise CommandError("`database move` takes only options: --from, --to and --namespace")
        source = open_movable(self.source, "--from", log=self.log)
        target = open_movable(self.target, "--to", log=self.log)
        if source.name == target.name:
            raise CommandError(f"--from and --to are the same store: {source.name}")
        try:
            moved = move(source, target, self.renames)
        except SessionError as error:
            raise CommandError(str(error)) from error
        self._report(source.name, target.name, moved)
        return 0

    def _report(self, source: str, target: str, moved: StoredRows) -> None:
        if not moved.namespaces:
            self.say(f"There is nothing in {source} to move")
            return
        self.out.print(
            plain(
                f"Moved from {source} to {target}: {len(moved.sessions)} sessions, "
                f"{len(moved.intents)} intents, {len(moved.endings)} endings and "
                f"{len(moved.owners)} owners, in the namespaces"
            )
        )
        for name in moved.names:
            count = sum(session.namespace == name for session in moved.sessions)
            self.out.print(plain(f"  {name} ({count} sessions)"))
