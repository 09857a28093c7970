"""The rights of roles: those that servers need, and no sight of other namespaces.

Row-level security separates the roles. The policies are in the schema.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection
from psycopg.sql import SQL, Composed, Identifier, Literal

from nbsessions.errors import StoreUnusable
from nbsessions.stores.postgres.schema import ISOLATED, LOCK, MEMBERS, MIGRATIONS, read_version

_READ_ONLY = ("nbsessions_meta", MEMBERS)
"""The tables that servers of roles only read."""

# Two grants on one table at once would fail.
_LOCK_GRANTS = SQL("SELECT pg_advisory_xact_lock({lock})")
_ALLOW_CONNECTIONS = SQL("GRANT CONNECT ON DATABASE {database} TO {role}")
_ALLOW_SCHEMA = SQL("GRANT USAGE ON SCHEMA {schema} TO {role}")
# CASCADE takes away, too, what the role has passed on to others.
_FORBID_ALL = SQL("REVOKE ALL ON TABLE {tables} FROM {role}, PUBLIC CASCADE")
_ALLOW_READING = SQL("GRANT SELECT ON TABLE {table} TO {role}")
_ALLOW_WRITING = SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {table} TO {role}")
_ADD_MEMBER = SQL("""INSERT INTO {members} (member, namespace) VALUES ({name}, {namespace})
    ON CONFLICT DO NOTHING""")
_ISOLATE = SQL("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")

_LOCK_MEMBERS = SQL("LOCK TABLE {members} IN SHARE ROW EXCLUSIVE MODE")
_SELECT_OTHER_MEMBERS = SQL("""SELECT member::text, namespace FROM {members}
    WHERE (member, namespace) IS DISTINCT FROM ({name}, {namespace}) ORDER BY 1, 2""")

_SELECT_PLACE = """SELECT nspname::text, relowner, pg_has_role(relowner, 'USAGE')
    FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = %s AND pg_catalog.pg_table_is_visible(pg_class.oid)"""
# A member of a role can become that role, even if it does not inherit its rights. A superuser
# counts as a member of every role.
_SELECT_ROLE = """SELECT EXISTS (SELECT FROM pg_catalog.pg_roles AS above
        WHERE (above.rolsuper OR above.rolbypassrls)
        AND pg_has_role(role.oid, above.oid, 'MEMBER')),
    EXISTS (SELECT FROM pg_catalog.pg_roles AS above
        WHERE above.rolcreaterole AND pg_has_role(role.oid, above.oid, 'MEMBER')),
    pg_has_role(role.oid, %s::oid, 'MEMBER')
    FROM pg_catalog.pg_roles AS role WHERE role.rolname = %s"""
_SELECT_CLOSED = """SELECT current_database()::text
    WHERE NOT has_database_privilege(%s, current_database(), 'CONNECT')"""
_SELECT_OPEN = """SELECT relname::text FROM pg_catalog.pg_class
    JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE nspname = %s AND relname = ANY(%s) AND NOT (relrowsecurity AND relforcerowsecurity)"""


def grant_statements(
    connection: Connection, namespace: str, role: str, *, apply: bool
) -> Sequence[Composed]:
    """Return the statements that let a role use a namespace and see no others.

    They belong into one transaction, and may be run again. If they switch row-level security on,
    the first one begins with comments on what roles may use already. With ``apply``, this role
    must be able to run them. Raises StoreUnusable, and StoreTooNew.
    """
    take_turns = _LOCK_GRANTS.format(lock=Literal(LOCK))
    place = connection.execute(_SELECT_PLACE, (MEMBERS,)).fetchone()
    if place is None or read_version(connection) < len(MIGRATIONS):
        raise StoreUnusable(
            "the database lacks tables of this release. Run `jupyter nbsessions database migrate`"
        )
    schema, owner, is_operator = place
    _check_role(connection, role, owner)
    if apply and not is_operator:
        raise StoreUnusable(
            f"the role {connection.info.user!r} does not own the tables, so it cannot grant "
            "rights. Connect as their owner"
        )
    if apply:
        connection.execute(take_turns)
    closed = connection.execute(_SELECT_CLOSED, (role,)).fetchall()
    rows = connection.execute(_SELECT_OPEN, (schema, [*ISOLATED, MEMBERS])).fetchall()
    open_tables = {name for (name,) in rows}
    remarks: Sequence[str] = ()
    if MEMBERS in open_tables and is_operator:
        members = Identifier(schema, MEMBERS)
        if apply:
            # Until row-level security is on, a role may be able to add itself.
            connection.execute(_LOCK_MEMBERS.format(members=members))
        remarks = _remarks(connection, members, namespace, role)
    return [
        Composed([*(SQL(f"-- {remark}\n") for remark in remarks), take_turns]),
        # Only if it is needed, because only the owner of the database may do that.
        *(
            _ALLOW_CONNECTIONS.format(database=Identifier(database), role=Identifier(role))
            for (database,) in closed
        ),
        *_statements(schema, namespace, role, open_tables),
    ]


def _remarks(
    connection: Connection, members: Identifier, namespace: str, role: str
) -> Sequence[str]:
    """Return lines of text on the rows of members that row-level security will obey."""
    select = _SELECT_OTHER_MEMBERS.format(
        members=members, name=Literal(role), namespace=Literal(namespace)
    )
    # repr() leaves no line break in them.
    found = [
        f"  role {member!r}, namespace {name!r}" for member, name in connection.execute(select)
    ]
    if not found:
        return ()
    return (
        f"{MEMBERS} has rows already, which take effect now. Any role that could write to the",
        "table can have added them. Delete those that you do not want:",
        *found,
    )


def _check_role(connection: Connection, role: str, owner: int) -> None:
    """Raise StoreUnusable if row-level security cannot isolate the role."""
    found = connection.execute(_SELECT_ROLE, (owner, role)).fetchone()
    if found is None:
        raise StoreUnusable(f"the database has no role {role!r}. Create it first (CREATE ROLE)")
    is_above, creates_roles, is_operator = found
    if is_above:
        raise StoreUnusable(
            f"the role {role!r} is a superuser, has BYPASSRLS, or is a member of such a role, so "
            "nothing isolates it"
        )
    if creates_roles:
        # Up to PostgreSQL 15, it can make itself a member of any role but a superuser.
        raise StoreUnusable(
            f"the role {role!r} has CREATEROLE, or is a member of a role that has it, so it may "
            "be able to become the owner of the tables"
        )
    if is_operator:
        raise StoreUnusable(
            f"the role {role!r} owns the tables, or is a member of the role that does, so it sees "
            "all namespaces"
        )


def _statements(
    schema: str, namespace: str, role: str, open_tables: set[str]
) -> Sequence[Composed]:
    # Altering a table waits for all servers, so leave those alone that are isolated already.
    isolated = [table for table in (*ISOLATED, MEMBERS) if table in open_tables]
    grantee = Identifier(role)
    return [
        _ALLOW_SCHEMA.format(schema=Identifier(schema), role=grantee),
        _FORBID_ALL.format(
            tables=SQL(", ").join(Identifier(schema, table) for table in (*ISOLATED, *_READ_ONLY)),
            role=grantee,
        ),
        *(
            _ALLOW_READING.format(table=Identifier(schema, table), role=grantee)
            for table in _READ_ONLY
        ),
        *(
            _ALLOW_WRITING.format(table=Identifier(schema, table), role=grantee)
            for table in ISOLATED
        ),
        _ADD_MEMBER.format(
            members=Identifier(schema, MEMBERS), name=Literal(role), namespace=Literal(namespace)
        ),
        *(_ISOLATE.format(table=Identifier(schema, table)) for table in isolated),
    ]
