"""The command line when sessions are in PostgreSQL."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from support.cli import CommandLine, Ran
from support.postgres import Cluster, shared_cluster
from support.server import Server, StartServer, servers_in

PASSWORD = "correct-horse-battery-staple"
ADA, BOB = "ada's notebooks", "bob's notebooks"
UNREACHABLE = f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/postgres"


def make_url(cluster: Cluster) -> str:
    return cluster.make_schema().replace("postgres@", f"postgres:{PASSWORD}@")


def prepare(start_server: StartServer, url: str, namespace: str = ADA) -> Server:
    """Return a server that finds the URL in its environment, and is not started yet."""
    server = start_server(start=False, config={"AsyncSessionManager": {"namespace": namespace}})
    server.environment["NBSESSIONS_STORE_URL"] = url
    return server


def run(cli: CommandLine, *arguments: str, **environment: str) -> Ran:
    """Run a command, and check that it tells no password."""
    ran = cli(*arguments, environment=environment)
    assert PASSWORD not in ran.out + ran.err
    return ran


def findings(ran: Ran, level: str) -> dict[str, str]:
    """Return the messages of a level in the output of ``doctor --json``, by check."""
    checks = json.loads(ran.out)["checks"]
    return {each["check"]: each["message"] for each in checks if each["level"] == level}


class Shared:
    """Two servers of two namespaces in one schema, each with one session."""

    def __init__(self, start_server: StartServer) -> None:
        self.url = make_url(shared_cluster())
        self.ada = prepare(start_server, self.url, ADA).start()
        self.bob = prepare(start_server, self.url, BOB).start()
        self.models = {
            "ada.ipynb": self.ada.create("ada.ipynb"),
            "bob.ipynb": self.bob.create("bob.ipynb"),
        }
        self.cli = CommandLine(self.ada)

    def elsewhere(self, **configuration: str) -> CommandLine:
        """Return the command line of a user who runs no server."""
        return CommandLine(self._idle(configuration))

    def _idle(self, configuration: dict[str, str]) -> Server:
        folder = self.ada.folder.with_name(f"idle{id(configuration)}")
        config = {"AsyncSessionManager": configuration}
        return Server(folder, self.ada.host, config=config)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    with servers_in(tmp_path_factory.mktemp("shared")) as start_server:
        yield Shared(start_server)


# list and show


def test_the_sessions_of_the_namespace_are_listed_with_their_owners(shared: Shared) -> None:
    (listed,) = run(shared.cli, "list", "--json").json()
    assert (listed["id"], listed["path"]) == (shared.models["ada.ipynb"]["id"], "ada.ipynb")
    assert (listed["server"], listed["namespace"]) == ("running", ADA)
    assert (listed["host"], listed["owner_state"]) == (socket.gethostname(), "live")
    assert 0 <= listed["heartbeat_age_seconds"] < 60
    head, line = run(shared.cli, "list").out.splitlines()
    assert head.split()[-2:] == ["owner", "server"]
    assert line.split()[-2] == socket.gethostname()


def test_all_namespaces_are_listed_for_operators(shared: Shared) -> None:
    # No namespace is configured there.
    cli = shared.elsewhere(store_url=shared.url)
    listed = run(cli, "list", "--all-namespaces", "--json").json()
    assert [(each["path"], each["namespace"]) for each in listed] == [
        ("ada.ipynb", ADA),
        ("bob.ipynb", BOB),
    ]
    assert {each["server"] for each in listed} == {"unreachable"}
    assert {each["owner_state"] for each in listed} == {"live"}
    head, *lines = run(cli, "list", "--all-namespaces").out.splitlines()
    assert head.split()[-1] == "namespace"
    assert [line.rstrip().endswith(each) for line, each in zip(lines, (ADA, BOB), strict=True)]


def test_a_session_is_shown_with_the_age_of_its_heartbeat(shared: Shared) -> None:
    shown = run(shared.cli, "show", "ada.ipynb", "--json").json()
    assert shown["owner_state"] == "live"
    assert shown["heartbeat_age_seconds"] >= 0
    assert shown["created"] is not None
    lines = run(shared.cli, "show", "ada.ipynb").out.splitlines()
    assert any(line.startswith("heartbeat age") and line.rstrip().endswith(" s") for line in lines)
    assert run(shared.cli, "show", "bob.ipynb").status == 1
    assert run(shared.cli, "show", "bob.ipynb", "--all-namespaces").status == 0


def test_a_store_can_be_named_on_the_command_line(shared: Shared) -> None:
    cli = shared.elsewhere(namespace=BOB)
    assert "There are no sessions\n" in run(cli, "list").err
    (listed,) = run(cli, "list", "--store", shared.url, "--json").json()
    assert listed["path"] == "bob.ipynb"


def test_a_store_on_the_command_line_overrides_the_configuration_and_the_environment(
    shared: Shared,
) -> None:
    cli = shared.elsewhere(namespace=BOB, store_url=UNREACHABLE)
    (listed,) = run(cli, "list", f"--store={shared.url}", "--json").json()
    assert listed["path"] == "bob.ipynb"
    ran = run(shared.cli, "list", "--store", f"sqlite://{quote(str(shared.bob.folder))}/no.db")
    assert (ran.err, "ada.ipynb" in ran.out) == ("", True)  # by REST
    cli = shared.elsewhere(namespace=BOB, store_url=shared.url)
    (listed,) = run(cli, "list", "--json", NBSESSIONS_STORE_URL=UNREACHABLE).json()
    assert listed["path"] == "bob.ipynb"


def test_in_jupyterhub_the_namespace_is_that_of_the_user(shared: Shared) -> None:
    hub = {"JUPYTERHUB_USER": "ada", "JUPYTERHUB_API_URL": "http://hub/hub/api"}
    ran = run(shared.elsewhere(store_url=shared.url), "doctor", "--json", **hub)
    assert findings(ran, "ok")["namespace"] == "the namespace is 'hub/ada/'"


def test_without_a_namespace_sessions_are_unknown(shared: Shared) -> None:
    cli = shared.elsewhere(store_url=shared.url)
    for command in ("list", "stop --all -y", "show ada.ipynb"):
        ran = run(cli, *command.split())
        assert ran.out == ""
        assert "c.AsyncSessionManager.namespace" in ran.err
        assert "of running servers\n" in ran.err or "session of a running server" in ran.err
    errors = findings(run(cli, "doctor", "--json"), "error")
    assert "c.AsyncSessionManager.namespace" in errors["namespace"]


@pytest.mark.parametrize("command", ["list --json", "show ada.ipynb", "doctor --json"])
def test_the_password_is_not_in_the_debug_log(shared: Shared, command: str) -> None:
    for arguments in (["--debug"], ["--debug", "--store", shared.url]):
        ran = run(shared.cli, *command.split(), *arguments, PGPASSWORD=PASSWORD)
        assert ran.status == 0


@pytest.mark.parametrize(
    "setting",
    [
        "c.AsyncSessionManager.store_url = '{url}&application_name=x'",
        "c.AsyncSessionManager.store_url = ['{url}']",
        "c.AsyncSessionManager.store_url = '{url}",
    ],
    ids=["twice", "list", "syntax"],
)
def test_the_password_is_not_in_what_is_said_about_the_configuration(
    shared: Shared, setting: str
) -> None:
    cli = shared.elsewhere(namespace=ADA, store_url=shared.url)
    folder = Path(cli.environment["JUPYTER_CONFIG_DIR"])
    (folder / "jupyter_server_config.py").write_text(setting.format(url=shared.url))
    ran = run(cli, "list")
    assert "jupyter_server_config.py" in ran.err
    assert "ada.ipynb" in ran.out
    (folder / "jupyter_server_config.json").unlink()
    run(cli, "list")
    run(cli, "doctor")


# Stores that cannot be read


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (UNREACHABLE, "Connection refused"),
        (f"postgresql://a:{PASSWORD}@b@localhost/db", "%40"),
        (f"postgresql://a:{PASSWORD}/b@localhost/db", "%2F"),
        (f"postgresql://a:12/{PASSWORD}@localhost/db", "%2F"),
        (f"postgresql://localhost/db?passwort={PASSWORD}", "not a URL of a PostgreSQL database"),
        (f"host=localhost password={PASSWORD}", "'' is not one of"),
        (f"host=localhost password=a:{PASSWORD}", "'' is not one of"),
        (f"strange://ada:{PASSWORD}@localhost/", "'strange' is not one of"),
    ],
)
def test_a_wrong_url_is_told_without_its_password_and_servers_are_asked(
    shared: Shared, url: str, problem: str
) -> None:
    ran = run(shared.cli, "list", "--json", "--store", url)
    assert ran.status == 0
    assert problem in ran.err
    (listed,) = json.loads(ran.out)
    assert (listed["path"], listed["server"]) == ("ada.ipynb", "running")
    assert (listed["owner"], listed["owner_state"]) == (None, None)
    ran = run(shared.cli, "doctor", "--json", "--store", url)
    assert ran.status == 1
    assert problem in findings(ran, "error")["store"]
    assert "it is not known whether" in findings(ran, "warning")["server"]


def test_a_database_that_does_not_answer_is_given_up(shared: Shared) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ada:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/db"
        ran = run(shared.cli, "list", "--store", url)
    assert "timeout expired" in ran.err
    assert "ada.ipynb" in ran.out
    with psycopg.connect(shared.url) as connection:
        connection.execute("LOCK TABLE nbsessions_session")
        ran = run(shared.cli, "list")
    assert "timeout" in ran.err
    assert "ada.ipynb" in ran.out


def test_without_the_driver_it_is_told_what_to_install(shared: Shared, tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError('no psycopg here')")
    path = ":".join([str(tmp_path), shared.cli.environment["PYTHONPATH"]])
    ran = run(shared.cli, "list", PYTHONPATH=path)
    assert "pip install 'nbsessions[postgres]'" in ran.err
    assert "ada.ipynb" in ran.out
    # Nothing else needs it.
    ran = run(shared.cli, "list", "--store", f"sqlite://{tmp_path}/no.db", PYTHONPATH=path)
    assert ran.err == ""


# Without a server


def kill(server: Server) -> None:
    server.wait_for_kernels(1)
    server.kill()


def test_a_session_whose_server_was_killed_is_stopped_by_its_process(
    start_server: StartServer,
) -> None:
    server = prepare(start_server, make_url(shared_cluster())).start()
    model = server.create("a.ipynb")
    cli = CommandLine(server)
    kill(server)
    (listed,) = run(cli, "list", "--json").json()
    assert (listed["id"], listed["server"], listed["owner_state"]) == (model["id"], "none", "dead")
    assert [each["path"] for each in run(cli, "list", "--orphans", "--json").json()] == ["a.ipynb"]
    ran = run(cli, "stop", "a.ipynb", "-y")
    assert (ran.status, ran.out) == (0, "Stopped a.ipynb\n")
    server.wait_for_kernels(0)
    assert run(cli, "list", "--json").json() == []


def change_owner(url: str, columns: str) -> None:
    schema = url.rpartition("%3D")[2]
    shared_cluster().execute(f"UPDATE {schema}.nbsessions_owner SET {columns}")


@pytest.mark.parametrize(
    ("columns", "state", "server_state", "problem"),
    [
        ("heartbeat = now() - interval '1 hour'", "silent", "unreachable", "may still be running"),
        ("heartbeat = now() - interval '2 days'", "dead", "none", "does not run here"),
        ("heartbeat = now()", "live", "unreachable", "may still be running"),
    ],
)
def test_what_happens_on_another_machine_is_unknown_and_not_gone(
    start_server: StartServer, columns: str, state: str, server_state: str, problem: str
) -> None:
    url = make_url(shared_cluster())
    server = prepare(start_server, url).start()
    server.create("a.ipynb")
    kill(server)
    server.kill_kernels()
    cli = CommandLine(server)
    assert run(cli, "list", "--json").json() == []
    change_owner(url, f"{columns}, host = 'node7', boot = 'another', process = 'x 1 1'")
    provider = "UPDATE {}.nbsessions_session SET provider = 'local:node7:another:x:/runtime'"
    shared_cluster().execute(provider.format(url.rpartition("%3D")[2]))
    (listed,) = run(cli, "list", "--json").json()
    assert (listed["host"], listed["owner_state"]) == ("node7", state)
    assert (listed["server"], listed["state"]) == (server_state, "unknown")
    ran = run(cli, "stop", "a.ipynb", "-y")
    assert (ran.status, problem in ran.err) == (1, True)


def test_an_empty_database_has_no_sessions(start_server: StartServer) -> None:
    cli = CommandLine(prepare(start_server, make_url(shared_cluster())))
    assert run(cli, "list").err == "There are no sessions\n"
    assert (
        "no nbsessions tables yet" in findings(run(cli, "doctor", "--json"), "ok")["store-schema"]
    )


def test_a_store_of_a_newer_release_is_told(start_server: StartServer) -> None:
    url = make_url(shared_cluster())
    server = prepare(start_server, url).start()
    server.create("a.ipynb")
    server.stop()
    schema = url.rpartition("%3D")[2]
    shared_cluster().execute(f"UPDATE {schema}.nbsessions_meta SET value = 99")
    cli = CommandLine(server)
    assert "Upgrade nbsessions" in run(cli, "list").err
    assert "Upgrade nbsessions" in findings(run(cli, "doctor", "--json"), "error")["store-schema"]
