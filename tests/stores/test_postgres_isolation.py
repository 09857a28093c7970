"""Roles that row-level security isolates: each works in its own namespace, and sees no other."""

from __future__ import annotations

import logging
import re
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from nbsessions.errors import KernelConflict, StoreUnusable
from nbsessions.models import EndReason, Sharing
from nbsessions.stores.postgres import PostgresSessionStore, schema
from nbsessions.stores.postgres.administration import Administration
from nbsessions.stores.postgres.settings import connection_settings
from support.postgres import packaged_programs, shared_cluster
from support.store_life import live
from support.store_processes import insert_and_list, open_store, other_process
from support.stores import Stores
from support.values import make_id, make_owner, make_session, make_start
from support.waiting import wait_until

GUIDE = Path(__file__).parents[2] / "docs/deploy/jupyterhub.md"
LOG = logging.getLogger("nbsessions.tests")
ADA, BOB = "hub/ada/", 'hub/bob\'s \\ "server"'
ROLES = {"ada": ADA, "bob": BOB}
NEWEST = len(schema.MIGRATIONS)

pytestmark = pytest.mark.gen_test


class SharedDatabase:
    """A schema with tables, and the roles in it."""

    def __init__(self) -> None:
        self.url = shared_cluster().make_schema()
        self.administration = Administration(connection_settings(self.url))
        self.administration.migrate()
        self.names: dict[str, str] = {}
        self._stores: list[PostgresSessionStore] = []

    def add(self, name: str, namespace: str | None = None, options: str = "") -> str:
        """Create a role, and grant it the namespace. Return its full name."""
        # Roles belong to the whole cluster. The name has to be quoted.
        self.names[name] = role = f'{name} {uuid.uuid4().hex} "o\'x"'
        shared_cluster().execute(f'CREATE ROLE "{role.replace(chr(34), chr(34) * 2)}" {options}')
        shared_cluster().execute(f'ALTER ROLE "{role.replace(chr(34), chr(34) * 2)}" LOGIN')
        if namespace is not None:
            self.administration.grant(namespace, role, apply=True)
        return role

    def store(self, name: str, namespace: str) -> PostgresSessionStore:
        """Return a store that connects as the role, or as the owner of the tables."""
        settings = {**connection_settings(self.url), "user": self.names.get(name, "postgres")}
        self._stores.append(PostgresSessionStore(settings, namespace, log=LOG))
        return self._stores[-1]

    def execute(
        self, name: str, statement: str, values: Sequence[object] = ()
    ) -> list[tuple[object, ...]]:
        with self.connected(name) as connection:
            cursor = connection.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else [(cursor.rowcount,)]

    @contextmanager
    def connected(self, name: str) -> Iterator[psycopg.Connection]:
        user = self.names.get(name, "postgres")
        with psycopg.connect(self.url, user=user, autocommit=True) as connection:
            yield connection

    def close(self) -> None:
        for store in self._stores:
            store.close(["a kernel that goes on"])


@pytest.fixture
def database() -> Iterator[SharedDatabase]:
    shared = SharedDatabase()
    for name, namespace in ROLES.items():
        shared.add(name, namespace)
    yield shared
    shared.close()


async def fill(database: SharedDatabase) -> None:
    """Give each role a row in each table."""
    for name, namespace in ROLES.items():
        store = database.store(name, namespace)
        await store.open(make_owner(f"owner-of-{name}"))
        await store.insert(make_session("a.ipynb", scope=f"owner-of-{name}"))
        ended = await store.insert(make_session("b.ipynb", scope=f"owner-of-{name}"))
        await store.end_sessions([ended])
        start = make_start("c.ipynb", scope=f"owner-of-{name}", kernel_id=make_id())
        await store.acquire(start, sharing=Sharing(document="c.ipynb", kernel_name=None))


async def test_a_role_reads_nothing_of_another_namespace(database: SharedDatabase) -> None:
    await fill(database)
    for table in schema.ISOLATED:
        select = f"SELECT DISTINCT namespace FROM {table} ORDER BY namespace"
        assert database.execute("ada", select) == [(ADA,)], table
        assert database.execute("bob", select) == [(BOB,)], table
        assert database.execute("postgres", select) == [(ADA,), (BOB,)], table
    select = f"SELECT member, namespace FROM {schema.MEMBERS}"
    assert database.execute("ada", select) == [(database.names["ada"], ADA)]


async def test_a_role_changes_nothing_of_another_namespace(database: SharedDatabase) -> None:
    await fill(database)
    for table in schema.ISOLATED:
        before = database.execute("postgres", f"SELECT * FROM {table} ORDER BY 1, 2")
        where = "WHERE namespace = %s"
        update = f"UPDATE {table} SET namespace = namespace {where}"
        assert database.execute("ada", update, [BOB]) == [(0,)]
        assert database.execute("ada", f"DELETE FROM {table} {where}", [BOB]) == [(0,)]
        with pytest.raises(InsufficientPrivilege):
            database.execute("ada", f"UPDATE {table} SET namespace = %s", [BOB])
        with pytest.raises(InsufficientPrivilege):
            database.execute("ada", f"TRUNCATE {table}")
        assert database.execute("postgres", f"SELECT * FROM {table} ORDER BY 1, 2") == before


INSERTS = (
    "INSERT INTO nbsessions_namespace VALUES (%(other)s, 1, 1)",
    """INSERT INTO nbsessions_namespace VALUES (%(other)s, 1, 1)
        ON CONFLICT (namespace) DO UPDATE SET writes = 0""",
    """INSERT INTO nbsessions_session (namespace, session_id, scope, provider, kernel_id, created,
        last_activity) VALUES (%(other)s, 'x', 'x', 'x', 'x', now(), now())""",
    """INSERT INTO nbsessions_intent (token, namespace, scope, verb, owner, lease_until)
        VALUES ('x', %(other)s, 'x', 'stop', 'x', now())""",
    """INSERT INTO nbsessions_owner (owner, namespace, scope, provider, host, boot, process,
        heartbeat, written) VALUES ('x', %(other)s, 'x', '', '', '', '', now(), 0)""",
    """INSERT INTO nbsessions_owner (owner, namespace, scope, provider, host, boot, process,
        heartbeat, written) VALUES ('owner-of-bob', %(own)s, 'x', '', '', '', '', now(), 0)
        ON CONFLICT (owner) DO UPDATE SET stopped = now()""",
    "INSERT INTO nbsessions_ending VALUES (%(other)s, 'x', 'died', now())",
    "INSERT INTO nbsessions_kernel VALUES ('x', %(other)s)",
    "INSERT INTO nbsessions_shared VALUES (%(other)s, 'x', 'x', 'x', NULL, now())",
    "INSERT INTO nbsessions_member VALUES (current_user, %(other)s)",
    "UPDATE nbsessions_member SET namespace = %(other)s",
    "DELETE FROM nbsessions_member",
    "UPDATE nbsessions_meta SET value = 99",
    "ALTER TABLE nbsessions_session DISABLE ROW LEVEL SECURITY",
    "DROP POLICY nbsessions_members ON nbsessions_session",
    "CREATE TABLE nbsessions_another (a integer)",
)


async def test_a_role_writes_nothing_into_another_namespace(database: SharedDatabase) -> None:
    await fill(database)
    for statement in INSERTS:
        with database.connected("ada") as connection, pytest.raises(InsufficientPrivilege):
            connection.execute(statement, {"own": ADA, "other": BOB})  # type: ignore[arg-type]


async def test_numbers_that_a_role_chooses_are_in_nobodys_way(database: SharedDatabase) -> None:
    await fill(database)
    ((last,),) = database.execute("postgres", "SELECT max(seq) FROM nbsessions_session")
    taken = """INSERT INTO nbsessions_session OVERRIDING SYSTEM VALUE
        SELECT number, namespace, gen_random_uuid(), scope, provider, path, document, name, type,
        kernel_id, kernel_name, created, last_activity
        FROM nbsessions_session, generate_series(%s::int, %s::int) AS number
        WHERE namespace = %s LIMIT 50"""
    assert isinstance(last, int)
    assert database.execute("bob", taken, (last + 1, last + 50, BOB)) == [(50,)]
    store = database.store("ada", ADA)
    await store.open(make_owner("owner-of-ada"))
    session = await store.insert(make_session("d.ipynb", scope="owner-of-ada"))
    await store.rename_document("d.ipynb", "e.ipynb")
    await store.delete(session.session_id, stop_token=make_id())
    count = "SELECT count(*) FROM nbsessions_session WHERE namespace = %s AND path = 'a.ipynb'"
    assert database.execute("bob", count, (BOB,)) == [(51,)]


async def test_a_store_cannot_be_opened_for_another_namespace(database: SharedDatabase) -> None:
    await fill(database)
    with pytest.raises(StoreUnusable, match="row-level security"):
        await database.store("ada", BOB).open(make_owner("an intruder"))
    assert (
        database.execute("postgres", "SELECT 1 FROM nbsessions_owner WHERE owner = 'an intruder'")
        == []
    )


async def test_a_kernel_id_of_another_namespace_is_refused_and_not_shown(
    database: SharedDatabase,
) -> None:
    kernel_id = make_id()
    ada, bob = (database.store(name, namespace) for name, namespace in ROLES.items())
    await ada.open(make_owner("one"))
    await bob.open(make_owner("other"))
    await bob.insert(make_session(kernel_id=kernel_id, scope="other"))
    with pytest.raises(KernelConflict):
        await ada.acquire(make_start(kernel_id=kernel_id, scope="one"))
    assert await ada.acquire(make_start(kernel_id=make_id(), scope="one")) is None
    select = "SELECT kernel_id FROM nbsessions_kernel WHERE kernel_id = %s"
    assert database.execute("ada", select, [kernel_id]) == []
    assert database.execute("bob", select, [kernel_id]) == [(kernel_id,)]


@pytest.mark.parametrize("stores", ["postgres"], indirect=True)
async def test_all_operations_work_without_the_right_to_create_tables(
    stores: Stores, database: SharedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        stores, "make", lambda namespace="namespace", **_: database.store("carol", namespace)
    )
    database.add("carol", "namespace")
    database.administration.grant("another namespace", database.names["carol"], apply=True)
    stores.url = database.url
    await live(stores)


async def test_the_next_server_of_a_role_recovers_what_a_dead_one_left(
    database: SharedDatabase,
) -> None:
    first, second = (database.store("ada", ADA) for _ in range(2))
    await first.open(make_owner("first"))
    session = await first.insert(make_session(scope="first", kernel_id="a kernel that goes on"))
    first.close([session.kernel_id])
    await second.open(make_owner("second"))
    orphans = await second.find_orphans()
    assert list(orphans.sessions) == [session]
    await second.recover(orphans, ended=[(session, EndReason.DIED)])
    assert await second.list_sessions() == []


async def test_a_role_without_a_namespace_sees_nothing_and_cannot_serve(
    database: SharedDatabase,
) -> None:
    await fill(database)
    role = database.add("carol", "for a moment")
    database.execute("postgres", "DELETE FROM nbsessions_member WHERE member = %s", [role])
    assert database.execute("carol", "SELECT 1 FROM nbsessions_session") == []
    with pytest.raises(StoreUnusable):
        await database.store("carol", "for a moment").open(make_owner())


async def test_the_owner_of_the_tables_sees_and_serves_every_namespace(
    database: SharedDatabase,
) -> None:
    """It is no superuser here, to whom row-level security would not apply anyway."""
    owner = database.add("owner")
    quoted = f'"{owner.replace(chr(34), chr(34) * 2)}"'
    for table in (*schema.ISOLATED, schema.MEMBERS, "nbsessions_meta"):
        database.execute("postgres", f"ALTER TABLE {table} OWNER TO {quoted}")
    with database.connected("postgres") as connection:
        (name,) = connection.execute("SELECT current_schema()").fetchone() or ()
        connection.execute(f"ALTER SCHEMA {name} OWNER TO {quoted}")  # type: ignore[arg-type]
    await fill(database)
    assert len(database.execute("owner", "SELECT 1 FROM nbsessions_session")) == 2
    active = "SELECT row_security_active('nbsessions_session')"
    assert database.execute("owner", active) == [(True,)]
    store = database.store("owner", ADA)
    await store.open(make_owner("operator"))
    await store.insert(make_session(scope="operator"))
    assert len(database.execute("ada", "SELECT 1 FROM nbsessions_session")) == 2


def role_settings(database: SharedDatabase, user: str) -> Administration:
    return Administration({**connection_settings(database.url), "user": user})


def test_many_grants_and_migrations_at_once(database: SharedDatabase) -> None:
    role = database.add("carol")
    namespaces = [f"namespace {number}" for number in range(12)]

    def grant(namespace: str) -> tuple[int, int]:
        database.administration.grant(namespace, role, apply=True)
        return database.administration.migrate()

    with ThreadPoolExecutor(len(namespaces)) as threads:
        assert set(threads.map(grant, namespaces)) == {(NEWEST, NEWEST)}
    found = database.execute("carol", "SELECT namespace FROM nbsessions_member ORDER BY namespace")
    assert [name for (name,) in found] == sorted(namespaces)


def test_servers_go_on_during_a_migration_and_a_grant() -> None:
    database = SharedDatabase()
    role = database.add("carol")
    with ExitStack() as stack:
        others = [stack.enter_context(other_process()) for _ in range(3)]
        for number, process in enumerate(others):
            process.ask(open_store, database.url, make_owner(f"owner-{number}"))
        database.execute("postgres", "DROP TABLE nbsessions_shared")
        for table in schema.ISOLATED[:6]:
            database.execute("postgres", f"DROP POLICY nbsessions_operators ON {table}")
            database.execute("postgres", f"DROP POLICY nbsessions_members ON {table}")
        database.execute("postgres", f"DROP TABLE {schema.MEMBERS}")
        database.execute("postgres", "UPDATE nbsessions_meta SET value = 1")
        for number, process in enumerate(others):
            process.tell(insert_and_list, f"owner-{number}", 100)
        select = "SELECT 1 FROM nbsessions_session"
        wait_until(lambda: database.execute("postgres", select), "the servers write")
        assert database.administration.migrate() == (1, NEWEST)
        database.administration.grant(ADA, role, apply=True)
        assert [process.answer() for process in others] == [100] * 3


def test_the_script_is_for_psql_and_may_run_again(database: SharedDatabase) -> None:
    role, namespace = database.add("carol"), 'it\'s \\ "mine"\n; DROP TABLE x; -- :name $1 %s é'
    script = database.administration.grant(namespace, role, apply=False)
    assert database.execute("carol", "SELECT current_user") == [(role,)]
    for _ in range(2):
        ran = subprocess.run(
            # The script names the schema, so psql need not look there.
            [packaged_programs() / "psql", shared_cluster().url, "-X", "-v", "ON_ERROR_STOP=1"],
            input=script,
            capture_output=True,
            text=True,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
    select = "SELECT namespace FROM nbsessions_member"
    assert database.execute("carol", select) == [(namespace,)]


def test_a_role_gets_into_a_database_that_is_closed_to_others(database: SharedDatabase) -> None:
    role, name = database.names["ada"], shared_cluster().make_database()
    shared_cluster().execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    url = shared_cluster().url_of(database=name)
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(url, user=role)
    administration = Administration(connection_settings(url))
    administration.migrate()
    assert "GRANT CONNECT" in administration.grant(ADA, role, apply=True)
    psycopg.connect(url, user=role).close()
    assert "GRANT CONNECT" not in administration.grant(ADA, role, apply=True)


def test_tables_that_are_isolated_already_are_not_altered_again(database: SharedDatabase) -> None:
    script = database.administration.grant(ADA, database.names["ada"], apply=False)
    assert "ALTER TABLE" not in script


@pytest.mark.parametrize(
    ("options", "problem"),
    [("SUPERUSER", "superuser"), ("BYPASSRLS", "BYPASSRLS"), ("CREATEROLE", "CREATEROLE")],
)
def test_a_role_that_nothing_isolates_is_refused(
    database: SharedDatabase, options: str, problem: str
) -> None:
    role = database.add("carol", options=options)
    with pytest.raises(StoreUnusable, match=problem):
        database.administration.grant(ADA, role, apply=False)


@pytest.mark.parametrize("options", ["SUPERUSER", "BYPASSRLS", "CREATEROLE"])
def test_a_role_that_can_become_one_that_nothing_isolates_is_refused(options: str) -> None:
    database = SharedDatabase()
    role, above = database.add("carol", options="NOINHERIT"), database.add("admin", None, options)
    quoted = [each.replace('"', '""') for each in (above, role)]
    shared_cluster().execute('GRANT "{}" TO "{}"'.format(*quoted))
    with pytest.raises(StoreUnusable, match=f"(?i){options}"):
        database.administration.grant(ADA, role, apply=False)


def test_a_grant_takes_wider_rights_away(database: SharedDatabase) -> None:
    role = database.add("carol", ADA)
    with database.connected("postgres") as connection:
        (name,) = connection.execute("SELECT current_schema()").fetchone() or ()
        quoted = f'"{role.replace(chr(34), chr(34) * 2)}"'
        for grantee in (f"{quoted} WITH GRANT OPTION", "PUBLIC"):
            connection.execute(
                f"GRANT ALL ON ALL TABLES IN SCHEMA {name} TO {grantee}"  # type: ignore[arg-type]
            )
    # What the role has passed on does not keep its own rights from being taken away.
    other = database.names["bob"].replace('"', '""')
    database.execute("carol", f'GRANT TRUNCATE ON nbsessions_session TO "{other}"')
    database.execute("carol", "UPDATE nbsessions_meta SET value = value")
    database.administration.grant(ADA, role, apply=True)
    for name in ("carol", "bob"):
        for statement in (
            "UPDATE nbsessions_meta SET value = value",
            "DELETE FROM nbsessions_member",
            *(f"TRUNCATE {table}" for table in (*schema.ISOLATED, schema.MEMBERS)),
        ):
            with pytest.raises(InsufficientPrivilege):
                database.execute(name, statement)
    assert database.execute("carol", "SELECT namespace FROM nbsessions_member") == [(ADA,)]
    for table in schema.ISOLATED:
        assert database.execute("carol", f"DELETE FROM {table}") == [(0,)]


@pytest.mark.parametrize("apply", [True, False])
def test_members_that_are_there_before_row_level_security_are_named(apply: bool) -> None:
    database = SharedDatabase()
    role, namespace = database.add("carol"), "of others\n%s{}:x; DROP TABLE x"
    insert = "INSERT INTO nbsessions_member VALUES (%s, %s)"
    for values in ((role, namespace), ("mallory", ADA), (role, ADA)):
        database.execute("postgres", insert, values)
    script = database.administration.grant(ADA, role, apply=apply).splitlines()
    remarks = [line for line in script if line.startswith("--")]
    assert remarks[0].startswith("-- nbsessions_member has rows already")
    assert set(remarks[2:]) == {
        f"--   role {role!r}, namespace {namespace!r}",
        f"--   role 'mallory', namespace {ADA!r}",
    }
    if apply:
        again = database.administration.grant(ADA, role, apply=True)
        assert "mallory" not in again


def test_a_role_that_is_not_there_is_refused(database: SharedDatabase) -> None:
    with pytest.raises(StoreUnusable, match="no role 'nobody here'"):
        database.administration.grant(ADA, "nobody here", apply=False)


def test_a_role_that_does_not_own_the_tables_cannot_grant(database: SharedDatabase) -> None:
    own = role_settings(database, database.names["ada"])
    with pytest.raises(StoreUnusable, match="does not own the tables"):
        own.grant(BOB, database.names["ada"], apply=True)
    # But it may look at what the owner would have to run.
    assert "GRANT" in own.grant(BOB, database.names["ada"], apply=False)


def test_a_server_without_the_right_to_migrate_says_who_can(database: SharedDatabase) -> None:
    url = shared_cluster().make_schema()
    settings = {**connection_settings(url), "user": database.names["ada"]}
    with pytest.raises(StoreUnusable, match="database migrate"):
        Administration(settings).migrate()


async def test_an_older_release_works_with_the_newest_schema(
    database: SharedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
    store = database.store("ada", ADA)
    await store.open(make_owner("older"))
    session = await store.insert(make_session(scope="older"))
    assert await store.list_sessions() == [session]


# What the guide says


def sql_of_the_guide() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", GUIDE.read_text(), re.DOTALL)


async def test_the_rights_in_the_guide_are_enough_for_servers_of_one_role() -> None:
    database = SharedDatabase()
    role = database.add("nbsessions")
    with database.connected("postgres") as connection:
        (name,) = connection.execute("SELECT current_schema()").fetchone() or ()
        quoted = '"{}"'.format(role.replace('"', '""'))
        connection.execute(f"GRANT USAGE ON SCHEMA {name} TO {quoted}")  # type: ignore[arg-type]
        (grants,) = (each for each in sql_of_the_guide() if each.startswith("GRANT"))
        connection.execute(grants.replace("TO nbsessions;", f"TO {quoted};"))  # type: ignore[arg-type]
    store = database.store("nbsessions", ADA)
    await store.open(make_owner("owner"))
    session = await store.insert(make_session(scope="owner"))
    assert await store.list_sessions() == [session]
    database.close()


def test_the_query_in_the_guide_finds_who_blocks_others(database: SharedDatabase) -> None:
    (query,) = (each for each in sql_of_the_guide() if "pg_blocking_pids" in each)
    with (
        database.connected("ada") as blocker,
        database.connected("bob") as waiting,
        ThreadPoolExecutor(1) as threads,
    ):
        blocker.execute("BEGIN; LOCK TABLE nbsessions_namespace")
        read = threads.submit(waiting.execute, "SELECT 1 FROM nbsessions_namespace")
        names = (database.names["bob"], database.names["ada"])
        expected = (waiting.info.backend_pid, names[0], blocker.info.backend_pid, names[1])
        wait_until(
            lambda: expected in [row[:4] for row in database.execute("postgres", query)],
            "the query names both",
        )
        blocker.execute("ROLLBACK")
        assert read.result().fetchall() == []


async def test_a_role_ends_kernels_only_of_namespaces_that_it_may_use(
    database: SharedDatabase,
) -> None:
    scope = "gateway:http://somewhere"
    ada = database.store("ada", ADA)
    await ada.open(make_owner("owner-of-ada", shared_scope=scope))
    session = await ada.insert(make_session("a.ipynb", scope=scope))
    ada.close()
    bob = database.store("bob", BOB)
    await bob.open(make_owner("owner-of-bob", shared_scope=scope))
    assert await bob.find_unserved(timedelta(0)) == {}
    intruder = database.store("bob", ADA)
    with pytest.raises(StoreUnusable):
        await intruder.open(make_owner("intruder"))
    database.administration.grant(ADA, database.names["bob"], apply=True)
    assert await bob.find_unserved(timedelta(0)) == {ADA: {session.kernel_id}}
    visitor = database.store("bob", ADA)
    await visitor.open(make_owner("visitor"))
    taken = await visitor.take_unserved(scope, after=timedelta(0))
    assert taken is not None
    assert [each.session_id for each in taken.sessions] == [session.session_id]
