"""``jupyter nbsessions database grant``."""

from __future__ import annotations

import sys
from itertools import takewhile

from traitlets import Bool, TraitError

from nbsessions.cli.command import FLAGS
from nbsessions.cli.database.subcommand import DatabaseSubcommand
from nbsessions.cli.errors import CommandError
from nbsessions.cli.output import plain
from nbsessions.errors import SessionError

_FLAGS = {
    **FLAGS,
    "apply": ({"GrantCommand": {"apply": True}}, "Run the statements, instead of printing them."),
}


class GrantCommand(DatabaseSubcommand):
    """Isolates a role to a namespace."""

    name = "jupyter-nbsessions-database-grant"
    description = """Print the SQL that lets a role of the database use a namespace: it gives the
    role the rights that servers need, takes all others on the tables away from the role and from
    PUBLIC, adds the role to the table nbsessions_member and enables row-level security for all
    tables. Then each role sees and changes only the rows of its own namespaces, whatever it sends
    to the database. The owner of the tables sees all. From then on, a role without any namespace
    sees nothing.

    Roles are kept from each other's rows, but not from disturbing the service: they can lock
    tables, take advisory locks and use up connections. Create them with CONNECTION LIMIT 4.

    When row-level security is switched on, the command lists the rows that nbsessions_member has
    already, because a role may have added itself before. Delete those that you do not want.

    The role must exist, and must not be the owner of the tables or a superuser, have BYPASSRLS or
    CREATEROLE, or be a member of such a role. Run the command again for each namespace of the
    role. The statements may be run again, too. Pipe them to psql as the owner of the tables, or
    use --apply.
    """
    examples = """
jupyter nbsessions database grant hub.example.org/ada/ ada
jupyter nbsessions database grant hub.example.org/ada/ ada --apply
"""
    flags = _FLAGS

    apply = Bool(False, help="Whether to run the statements.").tag(config=True)

    def run(self) -> int:
        """Print the statements, or run them."""
        if len(self.extra_args) != 2:
            raise CommandError("`database grant` takes two arguments: NAMESPACE ROLE")
        namespace, role = self.extra_args
        database = self.database()
        try:
            script = database.grant(namespace, role, apply=self.apply)
        except (SessionError, TraitError) as error:
            raise CommandError(str(error)) from error
        if self.apply:
            done = f"{database.name}: the role {role!r} can use the namespace {namespace!r}"
            self.out.print(plain(done))
            # The comments are before the first query. What follows may quote any text.
            for line in takewhile(lambda line: not line.startswith("SELECT"), script.splitlines()):
                if line.startswith("-- "):
                    self.out.print(plain(line[3:]))
        else:
            # Unlike the console, this wraps no lines.
            sys.stdout.write(script)
        return 0
