"""The files of docs/deploy/jupyterhub: a hub whose users' servers share one database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from support.environments import REPOSITORY
from support.hub import StartHub, hubs_in
from support.pgbouncer import USERS_FILE, Pooler, running
from support.ports import reserve_server_port
from support.postgres import Cluster, private_folder, shared_cluster

FILES = REPOSITORY / "docs" / "deploy" / "jupyterhub"
USERS = ("ada", "grace")
PASSWORD = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    """A server with the role and the database."""
    cluster = shared_cluster()
    for statement in (FILES / "database.sql").read_text().split(";"):
        cluster.execute(statement)
    return cluster


@pytest.fixture(scope="module")
def store_url(cluster: Cluster) -> Iterator[str]:
    """The URL of the database, through PgBouncer."""
    with reserve_server_port() as holder, private_folder() as folder:
        port = holder.getsockname()[1]
        settings = (FILES / "pgbouncer.ini").read_text()
        for old, new in {
            "host=127.0.0.1 port=5432": f"host={cluster.folder} port={cluster.port}",
            "listen_port = 6432": f"listen_port = {port}",
            "/etc/pgbouncer/userlist.txt": str(folder / USERS_FILE),
        }.items():
            assert settings.count(old) == 1, f"{old!r} is not once in pgbouncer.ini"
            settings = settings.replace(old, new)
        users = f'"nbsessions" "{PASSWORD}"\n'
        with running(Pooler(folder, settings, users=users, host="127.0.0.1", port=port)):
            yield f"postgresql://nbsessions:{PASSWORD}@127.0.0.1:{port}/nbsessions"


@pytest.fixture
def start_hub(tmp_path: Path, store_url: str) -> Iterator[StartHub]:
    with hubs_in(tmp_path) as start:
        yield start


def test_each_user_keeps_sessions_and_kernels_in_a_namespace_of_the_database(
    start_hub: StartHub, store_url: str
) -> None:
    hub = start_hub(
        users=USERS,
        deployed=FILES / "jupyterhub_config.py",
        variables={"NBSESSIONS_STORE_URL": store_url},
    )
    with ThreadPoolExecutor() as pool:
        servers = dict(zip(USERS, pool.map(hub.start_user_server, USERS), strict=True))
    models = {user: server.create("a.ipynb", "python3") for user, server in servers.items()}
    ada = models["ada"]
    assert servers["ada"].execute(ada["kernel"]["id"], "x = 42; x") == "42"

    hub.kill_user_server("ada")
    hub.wait_for_end("ada")
    hub.start_user_server("ada")

    for user, server in servers.items():
        listed = [(each["id"], each["kernel"]["id"]) for each in server.list_sessions()]
        assert listed == [(models[user]["id"], models[user]["kernel"]["id"])]
    assert servers["ada"].execute(ada["kernel"]["id"], "x") == "42"
    with psycopg.connect(store_url) as connection:
        rows = connection.execute("SELECT namespace, session_id FROM nbsessions_session")
        found = dict(rows.fetchall())
    assert found == {f"127.0.0.1:{hub.port}/{user}/": models[user]["id"] for user in USERS}
