"""The base class of the subcommands for one database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbsessions.cli.command import FLAGS, JSON_FLAG, Command
from nbsessions.cli.configuration import configured_store_url
from nbsessions.cli.database.stores import open_database
from nbsessions.cli.errors import CommandError
from nbsessions.environment import STORE_URL_VARIABLE

if TYPE_CHECKING:
    from nbsessions.stores.postgres.administration import Administration

FLAGS_WITH_JSON = {**FLAGS, **JSON_FLAG}


class DatabaseSubcommand(Command):
    """A subcommand for the configured database, or the one given with ``--store``."""

    def database(self) -> Administration:
        """Return the database. Raises CommandError."""
        if self.store:
            return open_database(self.store, "--store")
        url = configured_store_url(self)
        if not url:
            raise CommandError(
                "no database is configured. Give its URL with --store, in "
                f"c.AsyncSessionManager.store_url or in {STORE_URL_VARIABLE}"
            )
        return open_database(url, "the configured store")
