"""``doctor`` with real databases: roles, poolers, and those that cannot be reached."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from support.cli import CommandLine, Ran
from support.operators import administration, make_role
from support.pgbouncer import running_pooler
from support.postgres import FAST, Cluster, running_cluster, shared_cluster
from support.server import Server, StartServer

PASSWORD = "correct-horse-battery-staple"
WRONG = "tr0ub4dor"
CONFIG = {"AsyncSessionManager": {"namespace": "ada"}}
READER = "nbsessions_reader"


def prepare(start_server: StartServer, url: str) -> Server:
    server = start_server(start=False, config=CONFIG)
    server.environment["NBSESSIONS_STORE_URL"] = url
    return server


def run(cli: CommandLine, *arguments: str, **environment: str) -> Ran:
    """Run a command, and check that it tells no password."""
    ran = cli(*arguments, environment=environment)
    assert PASSWORD not in ran.out + ran.err
    assert WRONG not in ran.out + ran.err
    return ran


def findings(ran: Ran, level: str) -> dict[str, str]:
    """Return the messages of a level in the output of ``doctor --json``, by check."""
    checks = json.loads(ran.out)["checks"]
    return {each["check"]: each["message"] for each in checks if each["level"] == level}


def schema_of(url: str) -> str:
    return url.rpartition("%3D")[2]


@pytest.fixture(scope="module")
def reader() -> str:
    """A role that may read only."""
    shared_cluster().execute(f"CREATE ROLE {READER} LOGIN")
    return READER


def test_beside_a_server_all_is_well(start_server: StartServer) -> None:
    server = prepare(start_server, shared_cluster().make_schema()).start()
    server.create("a.ipynb")
    ran = run(CommandLine(server), "doctor", "--json", "--debug")
    assert ran.status == 0
    fine = findings(ran, "ok")
    assert "can be reached" in fine["store"]
    assert "keeps its sessions in the store" in fine["server"]
    assert fine["namespace"] == "the namespace is 'ada'"
    assert "stays on this machine" in fine["store-encryption"]
    assert fine["store-pooler"] == "no connection pooler was noticed"
    assert "sessions: 1, servers that were not stopped: 1" in fine["store-contents"]
    assert not [each for each in findings(ran, "warning") if each.startswith("store")]


def test_a_role_that_may_only_read_is_enough_to_list_but_not_for_servers(
    start_server: StartServer, reader: str
) -> None:
    url = shared_cluster().make_schema()
    server = prepare(start_server, url).start()
    model = server.create("a.ipynb")
    schema = schema_of(url)
    shared_cluster().execute(f"GRANT USAGE ON SCHEMA {schema} TO {reader}")
    as_reader = url.replace("postgres@", f"{reader}@")
    cli = CommandLine(server)
    ran = run(cli, "doctor", "--json", "--store", as_reader)
    errors = findings(ran, "error")
    assert "may not read the version" in errors["store-schema"]
    assert "it is not known whether" in findings(ran, "warning")["server"]

    shared_cluster().execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader}")
    (listed,) = run(cli, "list", "--store", as_reader, "--json").json()
    assert (listed["id"], listed["owner_state"]) == (model["id"], "live")
    ran = run(cli, "doctor", "--json", "--store", as_reader)
    assert ran.status == 1
    (lacking,) = findings(ran, "error").values()
    assert "INSERT, UPDATE, DELETE on nbsessions_session" in lacking
    assert "nbsessions_meta" not in lacking
    assert "may not create tables" in findings(ran, "ok")["store-role"]


def test_a_role_with_more_rights_than_servers_need_is_warned_of(
    start_server: StartServer,
) -> None:
    url, role = shared_cluster().make_schema(), make_role()
    schema = schema_of(url)
    administration(url).migrate()
    shared_cluster().execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    shared_cluster().execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}")
    cli = CommandLine(prepare(start_server, url.replace("postgres@", f"{role}@")))
    found = findings(run(cli, "doctor", "--json"), "warning")["store-privileges"]
    assert "INSERT, UPDATE, DELETE, TRUNCATE on nbsessions_meta" in found
    assert "; TRUNCATE on nbsessions_session" in found
    administration(url).grant("ada", role, apply=True)
    assert "store-privileges" in findings(run(cli, "doctor", "--json"), "ok")


def test_a_role_is_told_whether_it_may_use_the_namespace(
    start_server: StartServer, reader: str
) -> None:
    url = shared_cluster().make_schema()
    own = url.replace("postgres@", f"{reader}@")
    administration(url).migrate()
    administration(url).grant("bob", reader, apply=True)
    cli = CommandLine(prepare(start_server, url))
    warnings = findings(run(cli, "doctor", "--json"), "warning")
    assert "does not restrict the role 'postgres'" in warnings["store-row-security"]
    errors = findings(run(cli, "doctor", "--json", "--store", own), "error")
    assert list(errors) == ["store-row-security"]
    assert f"keeps the role '{reader}' from the namespace 'ada'" in errors["store-row-security"]
    administration(url).grant("ada", reader, apply=True)
    ran = run(cli, "doctor", "--json", "--store", own)
    assert ran.status == 0
    assert f"restricts the role '{reader}'" in findings(ran, "ok")["store-row-security"]


def test_the_owner_of_the_tables_is_told_that_it_is_not_restricted(
    start_server: StartServer, reader: str
) -> None:
    """It is no superuser here."""
    url = shared_cluster().make_schema()
    owner = make_role()
    shared_cluster().execute(f"ALTER SCHEMA {schema_of(url)} OWNER TO {owner}")
    own = url.replace("postgres@", f"{owner}@")
    administration(own).migrate()
    administration(own).grant("ada", reader, apply=True)
    ran = run(CommandLine(prepare(start_server, own)), "doctor", "--json")
    assert "does not restrict" in findings(ran, "warning")["store-row-security"]


def test_a_role_that_may_not_create_tables_is_told_what_to_run(
    start_server: StartServer, reader: str
) -> None:
    url = shared_cluster().make_schema()
    shared_cluster().execute(f"GRANT USAGE ON SCHEMA {schema_of(url)} TO {reader}")
    cli = CommandLine(prepare(start_server, url.replace("postgres@", f"{reader}@")))
    assert (
        "may not create tables" in findings(run(cli, "doctor", "--json"), "error")["store-schema"]
    )
    assert "jupyter nbsessions database migrate" in run(cli, "doctor").out


def test_a_pooler_is_noticed_and_read_through(start_server: StartServer) -> None:
    cluster = shared_cluster()
    with running_pooler(cluster, pool_size=2) as pooler:
        server = prepare(start_server, pooler.url_of(cluster.make_database())).start()
        server.create("a.ipynb")
        cli = CommandLine(server)
        (listed,) = run(cli, "list", "--json").json()
        assert listed["owner_state"] == "live"
        assert "is between" in findings(run(cli, "doctor", "--json"), "ok")["store-pooler"]
        server.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A database server of its own, which asks the role ``ada`` for a password."""
    with running_cluster(**FAST) as cluster:
        cluster.execute(f"CREATE ROLE ada LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        rules = cluster.folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all ada scram-sha-256\n{rules.read_text()}")
        cluster.execute("SELECT pg_reload_conf()")
        yield cluster


def test_a_database_that_refuses_us_or_is_away_leaves_what_servers_answer(
    start_server: StartServer, cluster: Cluster
) -> None:
    server = prepare(start_server, cluster.url_of(user="ada"))
    server.environment["PGPASSWORD"] = PASSWORD
    server.start()
    server.create("a.ipynb")
    cli = CommandLine(server)
    (listed,) = run(cli, "list", "--json").json()
    assert listed["owner_state"] == "live"

    ran = run(cli, "list", "--json", "--debug", PGPASSWORD=WRONG)
    assert "password authentication failed" in ran.err
    assert [each["path"] for each in json.loads(ran.out)] == ["a.ipynb"]

    cluster.kill()
    ran = run(cli, "list", "--json")
    assert "cannot be used" in ran.err
    (listed,) = json.loads(ran.out)
    assert (listed["path"], listed["server"], listed["owner"]) == ("a.ipynb", "running", None)
    ran = run(cli, "doctor", "--json")
    assert ran.status == 1
    assert "cannot be used" in findings(ran, "error")["store"]
    assert "it is not known whether" in findings(ran, "warning")["server"]

    server.wait_for_kernels(1)
    server.kill()
    ran = run(cli, "list")
    assert "There are no sessions of running servers" in ran.err
    assert "Kernels without a session: 1" in ran.err
    assert run(cli, "stop", "--orphans", "-y").status == 0
    server.wait_for_kernels(0)
