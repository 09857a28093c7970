"""The command line as a whole: which subcommands there are."""

from __future__ import annotations

import sys

from nbsessions._version import __version__
from nbsessions.cli.command import Command
from nbsessions.cli.doctor_command import DoctorCommand
from nbsessions.cli.errors import CommandError
from nbsessions.cli.list_command import ListCommand
from nbsessions.cli.show_command import ShowCommand
from nbsessions.cli.stop_command import StopCommand

_SUBCOMMANDS = {
    "list": (ListCommand, "List sessions."),
    "show": (ShowCommand, "Show all that is known of one session."),
    "stop": (StopCommand, "End sessions, or kernels that no server has."),
    "doctor": (DoctorCommand, "Look for what keeps sessions and kernels from surviving."),
}


class SessionsCommand(Command):
    """``jupyter nbsessions``, which leaves the work to its subcommands."""

    name = "jupyter-nbsessions"
    version = __version__
    description = "List, look at and end notebook sessions, with and without a running server."
    subcommands = _SUBCOMMANDS

    def start(self) -> None:
        """Run the subcommand that was given."""
        if self.subapp is None:
            super().start()
        else:
            self.subapp.start()

    def run(self) -> int:
        """Say what could have been asked for."""
        if self.extra_args:
            raise CommandError(f"there is no subcommand {self.extra_args[0]!r}, see --help")
        self.print_help()
        return 1


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A path that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="replace")
    SessionsCommand.launch_instance()
