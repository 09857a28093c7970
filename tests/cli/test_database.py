"""The command line for operators of a database: migrations, and the rights of roles."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from nbsessions.cli.database.stores import open_database
from nbsessions.cli.errors import CommandError
from support.cli import CommandLine
from support.operators import (
    NEWEST,
    NOBODY,
    PASSWORD,
    administration,
    empty_database,
    make_role,
    make_tables,
    query,
)
from support.postgres import shared_cluster
from support.server import StartServer


@pytest.fixture
def url() -> str:
    """A database without tables."""
    return empty_database()


@pytest.fixture
def cli(start_server: StartServer) -> CommandLine:
    """The command line on a machine without a server."""
    return CommandLine(start_server(start=False))


@pytest.fixture
def role() -> str:
    """A role without any rights."""
    return make_role()


# Migrations


def test_migrate_creates_the_tables_and_check_knows_them(cli: CommandLine, url: str) -> None:
    before = cli("database", "check", "--store", url)
    assert (before.status, before.err) == (1, "")
    assert "has no tables" in before.out
    assert f"needs schema {NEWEST}" in before.out
    assert "jupyter nbsessions database migrate" in before.out
    made = cli("database", "migrate", "--store", url)
    assert (made.status, made.err) == (0, "")
    assert f"the tables were created, with schema {NEWEST}" in made.out
    assert f"has schema {NEWEST} already" in cli("database", "migrate", "--store", url).out
    after = cli("database", "check", "--store", url)
    assert (after.status, after.err) == (0, "")
    assert f"has schema {NEWEST}\n" in after.out
    assert "older releases can use it too, if they need schema 1 or a newer one" in after.out
    assert not any(PASSWORD in ran.out for ran in (before, made, after))


def test_an_older_schema_is_migrated_beside_its_sessions(cli: CommandLine, url: str) -> None:
    make_tables(url, 1)
    query(url, "INSERT INTO nbsessions_ending VALUES ('a', 'b', 'died', now())")
    checked = cli("database", "check", "--json", "--store", url)
    assert checked.status == 1
    name = administration(url).name
    assert checked.json() == {
        "ok": False,
        "database": name,
        "schema": 1,
        "needed": NEWEST,
        "oldest_compatible": 1,
        "problem": None,
    }
    migrated = cli("database", "migrate", "--json", "--store", url)
    assert migrated.json() == {"database": name, "from": 1, "to": NEWEST}
    assert cli("database", "check", "--json", "--store", url).json()["ok"] is True
    assert query(url, "SELECT reason FROM nbsessions_ending") == [("died",)]


def test_the_database_of_a_newer_release_is_told_from_one_that_cannot_be_used(
    cli: CommandLine, url: str
) -> None:
    make_tables(url)
    query(url, "UPDATE nbsessions_meta SET value = 98 WHERE key = 'schema'")
    assert cli("database", "check", "--store", url).status == 0
    assert cli("database", "migrate", "--json", "--store", url).json()["to"] == 98
    query(url, "UPDATE nbsessions_meta SET value = 97 WHERE key = 'oldest_compatible'")
    checked = cli("database", "check", "--store", url)
    assert (checked.status, checked.err) == (1, "")
    assert "Upgrade nbsessions" in checked.out
    problem = cli("database", "check", "--json", "--store", url).json()["problem"]
    assert "has schema 98" in problem
    migrated = cli("database", "migrate", "--store", url)
    assert (migrated.status, migrated.out) == (1, "")
    assert "has schema 98" in migrated.err


def test_many_migrations_at_once_make_the_tables_once(url: str) -> None:
    with ThreadPoolExecutor(12) as threads:
        outcomes = list(threads.map(lambda _: administration(url).migrate(), range(12)))
    assert sorted(outcomes) == [(0, NEWEST), *[(NEWEST, NEWEST)] * 11]


def test_the_configured_database_is_used(start_server: StartServer, url: str) -> None:
    environment = {"NBSESSIONS_STORE_URL": url}
    other = shared_cluster().make_schema()
    config = {"AsyncSessionManager": {"store_url": other}}
    cli = CommandLine(start_server(start=False))
    assert cli("database", "migrate", "--json", environment=environment).json()["from"] == 0
    configured = CommandLine(start_server(start=False, config=config))
    assert configured("database", "migrate", "--json", environment=environment).status == 0
    assert query(other, "SELECT COUNT(*) FROM nbsessions_meta") == [(2,)]
    checked = configured("database", "check", "--json", "--store", url)
    assert checked.json()["ok"] is True


# What is wrong


MIGRATE, CHECK, GRANT = ("migrate",), ("check",), ("grant", "namespace", "role")
FILE = "sqlite:///a/file.db"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "migrate"),
        (("drop",), "there is no subcommand 'drop'"),
        (MIGRATE, "no database is configured"),
        ((*MIGRATE, "me"), "takes no arguments"),
        ((*CHECK, "me"), "takes no arguments"),
        ((*GRANT, "me", "--store", NOBODY), "takes two arguments"),
        ((*MIGRATE, "--store", NOBODY), "postgresql://127.0.0.1:1/nbsessions cannot be used"),
        ((*CHECK, "--store", NOBODY), "postgresql://127.0.0.1:1/nbsessions cannot be used"),
        ((*CHECK, "--json", "--store", NOBODY), "127.0.0.1:1/nbsessions cannot be used"),
        ((*GRANT, "--store", NOBODY), "postgresql://127.0.0.1:1/nbsessions cannot be used"),
        ((*MIGRATE, "--store", FILE), "--store is not the URL of a PostgreSQL"),
        ((*MIGRATE, "--store", PASSWORD), "--store is not the URL of a PostgreSQL"),
        ((*MIGRATE, "--store", f"mysql://a:{PASSWORD}@b/c"), "--store is not the URL"),
        ((*MIGRATE, "--store", f"{NOBODY}?sslmode=mistake"), "cannot be used"),
        ((*MIGRATE, "--store", f"{NOBODY}?mistake=1"), "cannot be parsed"),
        (("move",), "--from is missing"),
        (("move", "--from", FILE), "--to is missing"),
        (("move", "--from", FILE, "--to", FILE), "are the same store"),
        (("move", "--from", FILE, "--to", NOBODY), "there is no file /a/file.db"),
        (("move", "--from", NOBODY, "--to", FILE), "127.0.0.1:1/nbsessions cannot be used"),
        (("move", "--from", "sqlite:relative.db", "--to", NOBODY), "needs an absolute path"),
        (("move", "--from", f"memory:{PASSWORD}", "--to", NOBODY), "--from is neither"),
        (("move", FILE, NOBODY), "takes only options"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback_or_a_password(
    cli: CommandLine, arguments: tuple[str, ...], problem: str
) -> None:
    ran = cli("database", *arguments)
    assert ran.status == 1
    assert problem in ran.out + ran.err
    assert "Traceback" not in ran.err
    assert PASSWORD not in ran.out + ran.err


def test_without_the_driver_the_package_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "nbsessions.stores.postgres.administration", None)
    with pytest.raises(CommandError, match=r"pip install 'nbsessions\[postgres\]'"):
        open_database(NOBODY, "--store")


# Rights


def test_grant_prints_the_statements_and_apply_runs_them(
    cli: CommandLine, url: str, role: str
) -> None:
    command = ("database", "grant", "a namespace", role, "--store", url)
    missing = cli(*command)
    assert (missing.status, missing.out) == (1, "")
    assert "jupyter nbsessions database migrate" in missing.err
    make_tables(url)
    printed = cli(*command)
    assert (printed.status, printed.err) == (0, "")
    assert printed.out.startswith("BEGIN;\n")
    assert printed.out.endswith("COMMIT;\n")
    assert query(url, "SELECT 1 FROM nbsessions_member") == []
    applied = cli(*command, "--apply")
    assert (applied.status, applied.err) == (0, "")
    assert f"the role '{role}' can use the namespace 'a namespace'" in applied.out
    assert query(url, "SELECT member, namespace FROM nbsessions_member") == [(role, "a namespace")]
    own = f"{url.replace('postgres:', f'{role}:')}"
    assert query(own, "SELECT namespace FROM nbsessions_member") == [("a namespace",)]


def test_grant_names_members_that_were_there_before(cli: CommandLine, url: str, role: str) -> None:
    make_tables(url)
    query(url, "INSERT INTO nbsessions_member VALUES ('mallory', 'ada')")
    command = ("database", "grant", "ada", role, "--store", url)
    assert "--   role 'mallory', namespace 'ada'\n" in cli(*command).out
    applied = cli(*command, "--apply")
    assert (applied.status, applied.err) == (0, "")
    assert "has rows already" in applied.out
    assert "role 'mallory', namespace 'ada'" in applied.out
    assert "mallory" not in cli(*command, "--apply").out


def test_a_server_serves_and_recovers_its_namespace_with_these_rights(
    start_server: StartServer, cli: CommandLine, url: str, role: str
) -> None:
    make_tables(url)
    assert cli("database", "grant", "ada", role, "--apply", "--store", url).status == 0
    server = start_server(start=False, config={"AsyncSessionManager": {"namespace": "ada"}})
    server.environment["NBSESSIONS_STORE_URL"] = url.replace("postgres:", f"{role}:")
    server.start()
    model = server.create("a.ipynb")
    server.kill()
    server.start(again=True)
    assert [each["id"] for each in server.list_sessions()] == [model["id"]]
    assert server.delete(model["id"]).status == 204
    server.wait_for_kernels(0)
    assert query(url, "SELECT namespace FROM nbsessions_namespace") == [("ada",)]


@pytest.mark.parametrize(
    ("namespace", "grantee", "problem"),
    [
        ("a", "nobody here", "no role 'nobody here'"),
        ("a", "postgres", "superuser"),
        ("x" * 256, "postgres", "must have between 1 and 255 bytes"),
        ("", "postgres", "must have between 1 and 255 bytes"),
        ("\udcff", "postgres", "not valid Unicode"),
    ],
)
def test_what_cannot_be_granted_is_explained(
    cli: CommandLine, url: str, namespace: str, grantee: str, problem: str
) -> None:
    make_tables(url)
    ran = cli("database", "grant", namespace, grantee, "--apply", "--store", url)
    assert (ran.status, ran.out) == (1, "")
    assert problem in ran.err
    assert "Traceback" not in ran.err


# Rows of others


def test_a_row_with_an_impossible_time_does_not_keep_an_operator_from_the_others(
    cli: CommandLine, url: str
) -> None:
    make_tables(url)
    for name, time in (("good", "2026-01-01Z"), ("bad", "infinity")):
        query(
            url,
            """INSERT INTO nbsessions_session (namespace, session_id, scope, provider, kernel_id,
            created, last_activity) VALUES (%s, %s, 'x', 'x', %s, %s, now())""",
            *("ada", name, name, time),
        )
    ran = cli("list", "--all-namespaces", "--json", "--store", url)
    assert ran.status == 0
    assert [each["id"] for each in json.loads(ran.out)] == ["good"]
    assert "the session 'bad' in the namespace 'ada' has an impossible time" in ran.err
    assert PASSWORD not in ran.err
