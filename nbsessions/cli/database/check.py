"""``jupyter nbsessions database check``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nbsessions.cli.database.subcommand import FLAGS_WITH_JSON, DatabaseSubcommand
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import plain, write_json
from nbsessions.errors import StoreError

if TYPE_CHECKING:
    from nbsessions.stores.postgres.administration import SchemaCondition


class CheckCommand(DatabaseSubcommand):
    """Shows the schema of the database, and changes nothing."""

    name = "jupyter-nbsessions-database-check"
    description = """Show which schema the tables of the database have, which one this release
    needs, and whether older releases can still use them. The command changes nothing. The exit
    code is 1 if a migration is needed or the database cannot be used.

    With --json, the output is an object with the keys ok (whether the exit code is 0), database
    (without any password), schema (0 if there are no tables), needed, oldest_compatible (releases
    that need this schema or a newer one can use the tables) and problem (why the database cannot
    be used). Unknown values are null.
    """
    examples = """
jupyter nbsessions database check
jupyter nbsessions database check --json
"""
    flags = FLAGS_WITH_JSON

    def run(self) -> int:
        """Check the database."""
        if self.extra_args:
            raise CommandError("`database check` takes no arguments")
        database = self.database()
        condition: SchemaCondition | None = None
        try:
            condition = database.check()
            problem = condition.too_new
        except StoreError as error:
            problem = str(error)
        ok = condition is not None and problem is None and not condition.needs_migration
        if self.json:
            write_json(
                {
                    "ok": ok,
                    "database": database.name,
                    "schema": condition and condition.schema,
                    "needed": database.needed,
                    "oldest_compatible": condition and condition.oldest_compatible,
                    "problem": problem,
                }
            )
        elif condition is None:
            raise CommandError(str(problem))
        else:
            for line in _lines(condition, database.needed):
                self.out.print(plain(f"{database.name}: {line}"))
        return 0 if ok else 1


def _lines(condition: SchemaCondition, needed: int) -> Iterator[str]:
    if condition.schema == 0:
        yield "has no tables of nbsessions"
    else:
        yield f"has schema {condition.schema}"
    yield f"this release needs schema {needed}"
    if condition.too_new is not None:
        yield condition.too_new
    elif condition.needs_migration:
        yield "a migration is needed: run `jupyter nbsessions database migrate`"
    if condition.schema:
        yield _compatibility(condition)


def _compatibility(condition: SchemaCondition) -> str:
    oldest = condition.oldest_compatible
    if oldest == condition.schema:
        return f"releases that need an older schema than {oldest} cannot use it"
    return f"older releases can use it too, if they need schema {oldest} or a newer one"
