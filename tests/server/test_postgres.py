"""Servers whose sessions are in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from support.channel import Channel
from support.postgres import FAST, Cluster, running_cluster, shared_cluster
from support.server import Server, StartServer
from support.waiting import wait_until

PASSWORD = "correct-horse-battery-staple"
CONFIG = {"AsyncSessionManager": {"namespace": "ada's notebooks"}}


def url_with_password(cluster: Cluster) -> str:
    return cluster.make_schema().replace("postgres@", f"postgres:{PASSWORD}@")


def start_on(start_server: StartServer, url: str, **options: object) -> Server:
    """Start a server that finds the URL in its environment."""
    server = start_server(start=False, **{"config": CONFIG, **options})
    server.environment["NBSESSIONS_STORE_URL"] = url
    return server.start()


def count_sessions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT COUNT(*) FROM nbsessions_session").fetchone()
    assert row is not None
    count: int = row[0]
    return count


@pytest.fixture
def url() -> str:
    return url_with_password(shared_cluster())


def test_sessions_kernels_and_variables_outlive_a_kill(
    start_server: StartServer, url: str
) -> None:
    server = start_on(start_server, url)
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    server.start(again=True)
    (found,) = server.list_sessions()
    assert (found["id"], found["kernel"]["id"]) == (model["id"], model["kernel"]["id"])
    assert server.execute(model["kernel"]["id"], "x") == "42"
    assert server.delete(model["id"]).status == 204
    server.wait_for_kernels(0)
    assert count_sessions(url) == 0


def test_a_session_whose_kernel_died_with_its_server_ends_at_the_next_start(
    start_server: StartServer, url: str
) -> None:
    server = start_on(start_server, url)
    model = server.create("a.ipynb")
    server.kill()
    server.kill_kernels()
    server.start(again=True)
    assert server.list_sessions() == []
    status = server.request("GET", f"/api/sessions/status?id={model['id']}").json()
    assert [(each["id"], each["reason"]) for each in status["missing"]] == [(model["id"], "died")]
    wait_until(lambda: count_sessions(url) == 0, "the session is gone from the database")


def test_two_servers_of_one_namespace_keep_their_kernels_apart(
    start_server: StartServer, url: str
) -> None:
    one, other = (start_on(start_server, url) for _ in range(2))
    models = [server.create("a.ipynb") for server in (one, other)]
    assert models[0]["kernel"]["id"] != models[1]["kernel"]["id"]
    assert [each["id"] for each in one.list_sessions()] == [models[0]["id"]]
    assert [each["id"] for each in other.list_sessions()] == [models[1]["id"]]
    assert one.stop() == 0
    assert [each["id"] for each in other.list_sessions()] == [models[1]["id"]]
    assert count_sessions(url) == 1


def test_no_password_is_in_a_kernel_a_log_or_a_command_line(
    start_server: StartServer, url: str
) -> None:
    server = start_server(start=False, config={**CONFIG, "ServerApp": {"log_level": "DEBUG"}})
    server.environment |= {
        "NBSESSIONS_STORE_URL": url,
        "PGPASSWORD": PASSWORD,
        "PGAPPNAME": "of a test",
    }
    server.start()
    read = "import os; sorted(each for each in os.environ if each.startswith(('PG', 'NBSESS')))"
    model = server.create("a.ipynb", "python3")
    other = server.start_kernel("python3")
    for kernel_id in (model["kernel"]["id"], other):
        # The first variable marks a kernel that outlives its server.
        assert server.execute(kernel_id, read) == "['NBSESSIONS_KERNEL_ID']"
    for process, line in server.kernel_commands().items():
        assert PASSWORD not in line
        assert PASSWORD not in str(process.environ())
    assert server.stop() == 0
    assert PASSWORD not in server.log
    assert count_sessions(url) == 0


@pytest.mark.parametrize(
    "change",
    [{"host": "127.0.0.1", "port": "1"}, {"dbname": "missing"}, {"user": "stranger"}],
    ids=["host", "database", "user"],
)
def test_a_wrong_url_is_reported_without_its_password(
    start_server: StartServer, url: str, change: dict[str, str]
) -> None:
    (name, value), *more = change.items()
    wrong = f"{url}&{name}={value}" + "".join(f"&{key}={each}" for key, each in more)
    server = start_on(start_server, wrong)
    reply = server.request("GET", "/api/sessions")
    assert reply.status == 503
    assert "postgresql://" in reply.message
    assert PASSWORD not in reply.message
    assert server.log_lines("W", "not available until their store can be used")
    assert PASSWORD not in server.log
    # Everything else of the server works.
    assert server.request("GET", "/api/contents").status == 200


def test_without_a_namespace_the_server_does_not_start(
    start_server: StartServer, url: str
) -> None:
    server = start_server(start=False)
    server.environment["NBSESSIONS_STORE_URL"] = url
    with pytest.raises(pytest.fail.Exception, match=r"AsyncSessionManager\.namespace"):
        server.start()
    server.allow_errors("namespace")


def test_in_jupyterhub_the_namespace_is_that_of_the_hub_the_user_and_the_server(
    start_server: StartServer, url: str
) -> None:
    server = start_server(start=False)
    server.environment |= {
        "NBSESSIONS_STORE_URL": url,
        "JUPYTERHUB_USER": "ada",
        "JUPYTERHUB_SERVER_NAME": "big",
        "JUPYTERHUB_API_URL": "http://hub:8081/some/hub/api",
    }
    server.start().create("a.ipynb")
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT namespace FROM nbsessions_session").fetchall()
    assert found == [("hub:8081/some/ada/big",)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running_cluster(**FAST) as cluster:
        yield cluster


def test_a_server_goes_on_while_its_database_is_away(
    start_server: StartServer, cluster: Cluster
) -> None:
    url = url_with_password(cluster)
    server = start_on(start_server, url)
    model = server.create("a.ipynb", "python3")
    kernel_id = model["kernel"]["id"]
    with Channel(server, kernel_id) as channel:
        assert channel.execute("x = 42; x") == "42"
        cluster.kill()
        assert [each["id"] for each in server.list_sessions()] == [model["id"]]
        reply = server.post({"path": "b.ipynb", "type": "notebook", "kernel": {"name": "light"}})
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) > 0
        assert channel.execute("x") == "42"
        cluster.start()
    created = server.create("b.ipynb")
    assert [each["id"] for each in server.list_sessions()] == [model["id"], created["id"]]
    server.wait_for_kernels(2)
    assert count_sessions(url) == 2


def test_a_server_that_starts_before_its_database_waits_for_it(
    start_server: StartServer, cluster: Cluster
) -> None:
    url = url_with_password(cluster)
    cluster.stop()
    server = start_on(start_server, url)
    assert server.request("GET", "/api/sessions").status == 503
    cluster.start()
    wait_until(lambda: server.request("GET", "/api/sessions").status == 200, "it is connected")
    assert server.create("a.ipynb")["path"] == "a.ipynb"
