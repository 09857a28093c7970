"""``jupyter nbsessions database migrate``."""

from __future__ import annotations

from nbsessions.cli.database.subcommand import FLAGS_WITH_JSON, DatabaseSubcommand
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import plain, write_json
from nbsessions.errors import StoreError


class MigrateCommand(DatabaseSubcommand):
    """Creates or migrates the tables."""

    name = "jupyter-nbsessions-database-migrate"
    description = """Create the tables of the database, or migrate them to the schema of this
    release. Servers do the same when they start, if their role may create tables. The command may
    run beside servers, and many times at once.

    With --json, the output is an object with the keys database (without any password), from and
    to (the numbers of the schemas before and after, where 0 means that there were no tables).
    """
    examples = """
jupyter nbsessions database migrate
jupyter nbsessions database migrate --store postgresql://host/database
"""
    flags = FLAGS_WITH_JSON

    def run(self) -> int:
        """Migrate the database."""
        if self.extra_args:
            raise CommandError("`database migrate` takes no arguments")
        database = self.database()
        try:
            before, after = database.migrate()
        except StoreError as error:
            raise CommandError(str(error)) from error
        if self.json:
            write_json({"database": database.name, "from": before, "to": after})
        else:
            self.out.print(plain(f"{database.name}: {_outcome(before, after)}"))
        return 0


def _outcome(before: int, after: int) -> str:
    if before == after:
        return f"has schema {after} already"
    if before == 0:
        return f"the tables were created, with schema {after}"
    return f"migrated from schema {before} to schema {after}"
