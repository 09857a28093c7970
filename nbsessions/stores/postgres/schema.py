"""The tables in PostgreSQL, and migrations from older versions."""

from __future__ import annotations

from typing import NamedTuple

from psycopg import Connection, errors

from nbsessions.errors import StoreTooNew, StoreUnusable

MEMBERS = "nbsessions_member"
"""The table that says which role may use which namespaces."""

ISOLATED = (
    "nbsessions_namespace",
    "nbsessions_owner",
    "nbsessions_intent",
    "nbsessions_session",
    "nbsessions_ending",
    "nbsessions_kernel",
    "nbsessions_shared",
)
"""The tables with a namespace, in an order in which they can be locked without a deadlock.

Each write of a server begins with the first one.
"""


def _for_operators(table: str) -> str:
    return f"""CREATE POLICY nbsessions_operators ON {table} USING (
        (SELECT pg_catalog.pg_has_role(current_user, relowner, 'USAGE')
        FROM pg_catalog.pg_class WHERE oid = '{table}'::regclass))"""


def _for_members(table: str) -> str:
    return f"""CREATE POLICY nbsessions_members ON {table}
        USING (namespace IN (SELECT namespace FROM {MEMBERS} WHERE member = current_user))
        WITH CHECK (namespace IN (SELECT namespace FROM {MEMBERS} WHERE member = current_user))"""


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE nbsessions_meta (key text PRIMARY KEY, value integer NOT NULL)""",
        # ``writes`` counts transactions, and ``revision`` is its value at the last one that
        # changed sessions.
        """CREATE TABLE nbsessions_namespace (
            namespace text COLLATE "C" PRIMARY KEY,
            writes bigint NOT NULL,
            revision bigint NOT NULL
        )""",
        """CREATE TABLE nbsessions_session (
            seq bigint GENERATED ALWAYS AS IDENTITY,
            namespace text COLLATE "C" NOT NULL,
            session_id text COLLATE "C" NOT NULL,
            scope text COLLATE "C" NOT NULL,
            provider text NOT NULL,
            path text,
            document text COLLATE "C",
            name text,
            type text,
            kernel_id text COLLATE "C" NOT NULL,
            kernel_name text,
            created timestamptz NOT NULL,
            last_activity timestamptz NOT NULL,
            -- With the namespace, because who may insert rows may choose their numbers.
            PRIMARY KEY (namespace, seq),
            UNIQUE (namespace, session_id)
        )""",
        # An entry of an index has at most 2700 bytes, and a path may be longer.
        """CREATE INDEX nbsessions_session_document
            ON nbsessions_session (namespace, scope, left(document, 300))""",
        """CREATE INDEX nbsessions_session_kernel
            ON nbsessions_session (namespace, kernel_id)""",
        """CREATE TABLE nbsessions_intent (
            seq bigint GENERATED ALWAYS AS IDENTITY,
            token text COLLATE "C" PRIMARY KEY,
            namespace text COLLATE "C" NOT NULL,
            scope text COLLATE "C" NOT NULL,
            document text COLLATE "C",
            verb text NOT NULL,
            kernel_id text COLLATE "C",
            owner text COLLATE "C" NOT NULL,
            lease_until timestamptz NOT NULL
        )""",
        """CREATE UNIQUE INDEX nbsessions_intent_start ON nbsessions_intent
            (namespace, scope, left(document, 300), hashtextextended(document, 0))
            WHERE verb = 'start' AND document IS NOT NULL""",
        """CREATE INDEX nbsessions_intent_kernel ON nbsessions_intent (namespace, kernel_id)""",
        """CREATE INDEX nbsessions_intent_owner ON nbsessions_intent (owner)""",
        """CREATE TABLE nbsessions_owner (
            owner text COLLATE "C" PRIMARY KEY,
            namespace text COLLATE "C" NOT NULL,
            scope text COLLATE "C" NOT NULL,
            provider text NOT NULL,
            host text NOT NULL,
            boot text NOT NULL,
            process text NOT NULL,
            heartbeat timestamptz NOT NULL,
            stopped timestamptz,
            written bigint NOT NULL
        )""",
        """CREATE INDEX nbsessions_owner_namespace ON nbsessions_owner (namespace)""",
        """CREATE TABLE nbsessions_ending (
            namespace text COLLATE "C" NOT NULL,
            session_id text COLLATE "C" NOT NULL,
            reason text NOT NULL,
            ended timestamptz NOT NULL,
            PRIMARY KEY (namespace, session_id)
        )""",
        """CREATE INDEX nbsessions_ending_ended ON nbsessions_ending (namespace, ended)""",
        # Which namespace has a kernel id. It keeps two namespaces from using one id, even where
        # neither may see the other's rows.
        """CREATE TABLE nbsessions_kernel (
            kernel_id text COLLATE "C" PRIMARY KEY,
            namespace text COLLATE "C" NOT NULL
        )""",
        """CREATE INDEX nbsessions_kernel_namespace ON nbsessions_kernel (namespace)""",
    ),
    (
        f"""CREATE TABLE {MEMBERS} (
            member name NOT NULL,
            namespace text COLLATE "C" NOT NULL,
            PRIMARY KEY (member, namespace)
        )""",
        # The policies have no effect until row-level security is enabled (see grants.py). These
        # are the tables of the migration above.
        *(policy(table) for table in ISOLATED[:6] for policy in (_for_operators, _for_members)),
        _for_operators(MEMBERS),
        f"""CREATE POLICY nbsessions_members ON {MEMBERS} FOR SELECT
            USING (member = current_user)""",
    ),
    (
        # Starts that other servers can share, by a digest of the document and the kernelspec.
        """CREATE TABLE nbsessions_shared (
            namespace text COLLATE "C" NOT NULL,
            scope text COLLATE "C" NOT NULL,
            sharing_key text COLLATE "C" NOT NULL,
            token text COLLATE "C" NOT NULL,
            kernel_id text COLLATE "C",
            until timestamptz NOT NULL,
            PRIMARY KEY (namespace, scope, sharing_key)
        )""",
        _for_operators("nbsessions_shared"),
        _for_members("nbsessions_shared"),
    ),
)
"""One entry per schema version. An entry that has been released is never edited."""

OLDEST_COMPATIBLE = 1
"""The lowest schema version whose code can work with a database of the newest version."""

LOCK = 7_307_218_412_950_271
"""The number of the advisory lock that migrations and grants hold. Chosen at random."""

# to_regclass() could answer from a cache that lacks what another server has just created.
_HAS_META = """SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class
    WHERE relname = 'nbsessions_meta' AND pg_catalog.pg_table_is_visible(oid))"""
_SELECT_META = "SELECT key, value FROM nbsessions_meta"
_LOCK_MIGRATIONS = "SELECT pg_advisory_xact_lock(%s)"
SHORT_WAITS = """SET LOCAL lock_timeout = '2s'"""
"""Limits how long to wait for a table. Until then, all servers wait as well."""
_PUT_META = """INSERT INTO nbsessions_meta (key, value) VALUES (%s, %s)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value"""


class Meta(NamedTuple):
    """The versions in a database."""

    schema: int
    """The version of our tables, or 0 if there are none."""
    oldest_compatible: int
    """See OLDEST_COMPATIBLE."""


def migrate(connection: Connection) -> tuple[int, int]:
    """Migrate the database to the newest schema, in one transaction.

    Does nothing if it has that schema already, so a role that may not create tables can use it.
    A database of a newer release is used as it is if that release has marked it as compatible, so
    that servers of two releases can share it. Any number of servers may call this at once.

    Returns the versions before and after. Raises StoreTooNew, StoreUnusable if this role may not
    create the tables, LockNotAvailable if another transaction keeps a table busy, and other errors
    of psycopg.
    """
    version = read_version(connection)
    if version >= len(MIGRATIONS):
        return version, version
    try:
        with connection.transaction():
            connection.execute(_LOCK_MIGRATIONS, (LOCK,))
            connection.execute(SHORT_WAITS)
            version = read_version(connection)
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            if version < len(MIGRATIONS):
                connection.execute(_PUT_META, ("schema", len(MIGRATIONS)))
                connection.execute(_PUT_META, ("oldest_compatible", OLDEST_COMPATIBLE))
    except (errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
        raise StoreUnusable(
            "the database lacks tables of this release, and this role may not create them. Run "
            "`jupyter nbsessions database migrate` as the owner of the database"
        ) from error
    return version, max(version, len(MIGRATIONS))


def read_version(connection: Connection) -> int:
    """Return the version of our tables, or 0 if there are none. Raises StoreTooNew."""
    meta = read_meta(connection)
    if meta.oldest_compatible > len(MIGRATIONS):
        raise StoreTooNew(
            f"the session store has schema {meta.schema}, but this release of nbsessions reads "
            f"only schemas up to {len(MIGRATIONS)}. Upgrade nbsessions, or configure another "
            "database"
        )
    return meta.schema


def read_meta(connection: Connection) -> Meta:
    """Return the versions in the database, even if this release cannot use it."""
    if not connection.execute(_HAS_META).fetchone()[0]:  # type: ignore[index]
        return Meta(0, 0)
    meta: dict[str, int] = dict(connection.execute(_SELECT_META).fetchall())
    return Meta(meta.get("schema", 0), meta.get("oldest_compatible", 0))
