"""The entry point of ``jupyter nbsessions`` and its subcommands."""

from __future__ import annotations

import contextlib
import sys

from nbsessions._version import __version__
from nbsessions.cli.database_command import DatabaseCommand
from nbsessions.cli.dispatcher import Dispatcher
from nbsessions.cli.doctor_command import DoctorCommand
from nbsessions.cli.keeper_command import KeeperCommand
from nbsessions.cli.list_command import ListCommand
from nbsessions.cli.show_command import ShowCommand
from nbsessions.cli.stop_command import StopCommand

_SUBCOMMANDS = {
    "list": (ListCommand, "List sessions."),
    "show": (ShowCommand, "Show everything known about one session."),
    "stop": (StopCommand, "End sessions, or kernels whose server is dead."),
    "doctor": (DoctorCommand, "Look for anything that keeps sessions and kernels from surviving."),
    "keeper": (KeeperCommand, "Show or stop the process that keeps what kernels say."),
    "database": (DatabaseCommand, "Migrate, check, share or move a database of sessions."),
}


class SessionsCommand(Dispatcher):
    """``jupyter nbsessions``: dispatches to its subcommands."""

    name = "jupyter-nbsessions"
    version = __version__
    description = "List, inspect and end notebook sessions, with or without a running server."
    subcommands = _SUBCOMMANDS

    def print_help(self, classes: bool = False) -> None:
        """Print the help. With ``classes``, add the settings of servers.

        A server prints its own help before it loads extensions, so it cannot show them.
        """
        if classes:
            with contextlib.suppress(ImportError):  # In classic Notebook, kernels do not survive.
                # Imported late, because it imports jupyter_server, which takes a second.
                from nbsessions.kernels.gateway.manager import GatewayKernels
                from nbsessions.kernels.surviving.manager import SurvivingKernels

                self.classes = [*self.classes, SurvivingKernels, GatewayKernels]
        super().print_help(classes)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Do not fail on a path that the terminal cannot display.
            stream.reconfigure(errors="replace")
    SessionsCommand.launch_instance()
