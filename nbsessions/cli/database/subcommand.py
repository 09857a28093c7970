"""The base class of the subcommands for one database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Unicode

from nbsessions.cli.command import FLAGS, JSON_FLAG, Command
from nbsessions.cli.database.stores import configured_url, open_database

if TYPE_CHECKING:
    from nbsessions.stores.postgres.administration import Administration

STORE_ALIAS: dict[str, Any] = {**Command.aliases, "store": "DatabaseSubcommand.store"}
FLAGS_WITH_JSON = {**FLAGS, **JSON_FLAG}


class DatabaseSubcommand(Command):
    """A subcommand for the configured database, or the one given with ``--store``."""

    aliases = STORE_ALIAS

    store = Unicode(
        help="""The URL of the database: `postgresql://host/database`. It overrides
        c.AsyncSessionManager.store_url and NBSESSIONS_STORE_URL. Others on this machine can see
        what is on the command line, so put passwords where libpq looks for them: in PGPASSWORD,
        or in the file that PGPASSFILE names."""
    ).tag(config=True)

    def database(self) -> Administration:
        """Return the database. Raises CommandError."""
        option = "--store" if self.store else "the configured store"
        return open_database(self.store or configured_url(self.config), option)
