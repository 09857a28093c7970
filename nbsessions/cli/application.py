"""The entry point of ``jupyter nbsessions`` and its subcommands."""

from __future__ import annotations

import contextlib
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
    "show": (ShowCommand, "Show everything known about one session."),
    "stop": (StopCommand, "End sessions, or kernels whose server is dead."),
    "doctor": (DoctorCommand, "Look for anything that keeps sessions and kernels from surviving."),
}


class SessionsCommand(Command):
    """``jupyter nbsessions``: dispatches to its subcommands."""

    name = "jupyter-nbsessions"
    version = __version__
    description = "List, inspect and end notebook sessions, with or without a running server."
    subcommands = _SUBCOMMANDS

    def start(self) -> None:
        """Run the subcommand given on the command line."""
        if self.subapp is None:
            super().start()
        else:
            self.subapp.start()

    def print_help(self, classes: bool = False) -> None:
        """Print the help. With ``classes``, add the settings of servers.

        A server prints its own help before it loads extensions, so it cannot show them.
        """
        if classes:
            with contextlib.suppress(ImportError):  # In classic Notebook, kernels do not survive.
                # Imported late, because it imports jupyter_server, which takes a second.
                from nbsessions.kernels.surviving.manager import SurvivingKernels

                self.classes = [*self.classes, SurvivingKernels]
        super().print_help(classes)

    def run(self) -> int:
        """Print the help, since no subcommand was given."""
        if self.extra_args:
            raise CommandError(f"there is no subcommand {self.extra_args[0]!r}, see --help")
        self.print_help()
        return 1


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Do not fail on a path that the terminal cannot display.
            stream.reconfigure(errors="replace")
    SessionsCommand.launch_instance()
