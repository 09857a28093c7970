"""``jupyter nbsessions database``."""

from __future__ import annotations

from nbsessions.cli.database.check import CheckCommand
from nbsessions.cli.database.grant import GrantCommand
from nbsessions.cli.database.migrate import MigrateCommand
from nbsessions.cli.database.move import MoveCommand
from nbsessions.cli.dispatcher import Dispatcher

_SUBCOMMANDS = {
    "migrate": (MigrateCommand, "Create the tables, or migrate them to this release."),
    "check": (CheckCommand, "Show which releases can use the tables."),
    "grant": (GrantCommand, "Let a role use one namespace, and see no others."),
    "move": (MoveCommand, "Move all sessions from a file to a database, or back."),
}


class DatabaseCommand(Dispatcher):
    """Dispatches to the subcommands for operators of a database."""

    name = "jupyter-nbsessions database"  # The help says that this runs the subcommands.
    description = "Migrate, check, share or move a database that servers keep their sessions in."
    subcommands = _SUBCOMMANDS
