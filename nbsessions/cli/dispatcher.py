"""The base class of commands that consist of subcommands."""

from __future__ import annotations

from nbsessions.cli.command import Command
from nbsessions.cli.errors import CommandError


class Dispatcher(Command):
    """Runs the subcommand given on the command line."""

    def start(self) -> None:
        """Run the subcommand, if one was given."""
        if self.subapp is None:
            super().start()
        else:
            self.subapp.start()

    def run(self) -> int:
        """Print the help, since no subcommand was given."""
        if self.extra_args:
            raise CommandError(f"there is no subcommand {self.extra_args[0]!r}, see --help")
        self.print_help()
        return 1
