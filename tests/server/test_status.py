"""Why sessions are gone, asked of real servers, and what pages are told of the namespace."""

from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from nbsessions.identity import boot_id
from support.rest import SESSIONS
from support.server import Server, StartServer
from support.waiting import wait_until

OWN_MANAGER = {"ServerApp": {"session_manager_class": "support.managers.OwnSessionManager"}}


def status(server: Server, *models: dict[str, Any]) -> dict[str, Any]:
    """Return what the server tells of the sessions."""
    query = urlencode([("id", model["id"]) for model in models])
    reply = server.request("GET", f"{SESSIONS}/status?{query}")
    assert reply.status == 200, reply.body
    assert reply.headers["cache-control"] == "no-store"
    found: dict[str, Any] = reply.json()
    return found


def missing(server: Server, *models: dict[str, Any]) -> dict[str, str | None]:
    """Return the reasons of those sessions that are missing, by their path."""
    paths = {model["id"]: model["path"] for model in models}
    return {paths[each["id"]]: each["reason"] for each in status(server, *models)["missing"]}


# One server after the other


@pytest.mark.parametrize("host_name", ["newest", "oldest", "notebook6"])
def test_a_deliberate_stop_has_stopped_them(start_server: StartServer, host_name: str) -> None:
    server = start_server(host_name)
    models = [server.create(path) for path in ("a.ipynb", "b.ipynb")]
    assert server.stop() == 0

    server.start()

    assert missing(server, *models) == {"a.ipynb": "stopped", "b.ipynb": "stopped"}


def test_with_the_server_and_the_kernel_killed_it_has_died(start_server: StartServer) -> None:
    server = start_server()
    dies, goes_on, other = [server.create(path) for path in ("a.ipynb", "b.ipynb", "c.ipynb")]
    shared = server.create("shared.ipynb", {"id": dies["kernel"]["id"]})
    assert server.delete(other["id"]).status == 204
    server.kill()
    for process, command in server.kernel_commands().items():
        if dies["kernel"]["id"] in command:
            process.kill()
            process.wait(10)
    killed = datetime.now(timezone.utc)

    server.start()

    found = status(server, dies, goes_on, other, shared)
    reasons = [(each["id"], each["reason"]) for each in found["missing"]]
    assert reasons == [(dies["id"], "died"), (other["id"], None), (shared["id"], "died")]
    ended = datetime.fromisoformat(found["missing"][0]["ended"].replace("Z", "+00:00"))
    assert killed < ended < killed + timedelta(minutes=2)
    # It is still known after another crash.
    server.kill()
    assert status(server.start(), dies, goes_on, other, shared) == found


def test_what_ran_in_an_earlier_boot_has_ended_with_it(start_server: StartServer) -> None:
    server = start_server()
    model = server.create("a.ipynb")
    server.kill()
    server.kill_kernels()
    with closing(sqlite3.connect(server.store, isolation_level=None)) as connection:
        earlier = (
            "UPDATE nbsessions_session SET provider = replace(provider, ?, 'an-earlier-boot')"
        )
        assert connection.execute(earlier, [boot_id()]).rowcount == 1

    server.start()

    assert missing(server, model) == {"a.ipynb": "rebooted"}


# A live server


def test_a_kernel_that_is_killed_under_its_server_has_ended(start_server: StartServer) -> None:
    limits = {"time_to_dead": 0.2, "restart_limit": 0}
    server = start_server(config={"KernelRestarter": limits})
    model, other = server.create("a.ipynb"), server.create("b.ipynb")
    assert missing(server, model, other) == {}
    (process,) = (
        each for each, line in server.kernel_commands().items() if model["kernel"]["id"] in line
    )

    process.kill()

    wait_until(lambda: missing(server, model, other), "the session is missing")
    assert missing(server, model, other) == {"a.ipynb": "ended"}
    wait_until(lambda: status(server, model)["missing"][0]["ended"], "it is known when it ended")


def test_a_kernel_that_another_route_shuts_down_has_ended(start_server: StartServer) -> None:
    server = start_server()
    model = server.create("a.ipynb")
    assert server.request("DELETE", f"/api/kernels/{model['kernel']['id']}").status == 204
    assert missing(server, model) == {"a.ipynb": "ended"}


@contextmanager
def shut_out(file: Path) -> Iterator[None]:
    """Lock a file without a log, so that nobody can read it."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_while_the_store_cannot_be_read_it_is_not_known_what_is_missing(
    start_server: StartServer, tmp_path: Path
) -> None:
    file = tmp_path / "stock.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")
    server = start_server(config={"AsyncSessionManager": {"database_filepath": str(file)}})
    there, gone = server.create("a.ipynb"), server.create("b.ipynb")
    assert server.delete(gone["id"]).status == 204

    with shut_out(file):
        assert status(server, there, gone)["missing"] is None
        assert status(server)["missing"] == []
        assert missing(server, there) == {}

    assert missing(server, there, gone) == {"b.ipynb": None}


# Several servers


def test_sessions_of_another_live_server_of_the_namespace_are_elsewhere(
    start_server: StartServer, tmp_path: Path
) -> None:
    shared = {"data_dir": tmp_path / "data", "root_dir": tmp_path / "root"}
    first, second = start_server(**shared), start_server(**shared)
    stranger = start_server(data_dir=tmp_path / "data", root_dir=tmp_path / "another root")
    model = first.create("a.ipynb")

    assert missing(first, model) == {}
    assert missing(second, model) == {"a.ipynb": "elsewhere"}
    assert missing(stranger, model) == {"a.ipynb": None}
    namespaces = [status(server)["namespace"] for server in (first, second, stranger)]
    assert namespaces[0] == namespaces[1] != namespaces[2]

    # What a server stops for its own reasons is no longer elsewhere.
    assert first.stop() == 0
    assert missing(second, model) == {"a.ipynb": "stopped"}


def test_sessions_that_another_server_has_taken_over_are_elsewhere(
    start_server: StartServer,
) -> None:
    first = start_server()
    runtime = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
    model = first.create("a.ipynb")
    first.kill()
    second = start_server(data_dir=first.data_dir, root_dir=first.root_dir, environment=runtime)
    assert missing(second, model) == {}

    first.start()

    assert missing(first, model) == {"a.ipynb": "elsewhere"}


# Pages


def page_config(server: Server, path: str) -> dict[str, Any]:
    """Return the configuration that the server puts into a page."""
    reply = server.request("GET", path)
    assert reply.status == 200, reply.body
    pattern = rb'<script id="jupyter-config-data"[^>]*>(.*?)</script>'
    found = re.search(pattern, reply.body, re.DOTALL)
    assert found is not None, reply.body
    config: dict[str, Any] = json.loads(found[1])
    return config


def test_a_page_of_jupyterlab_knows_the_namespace_that_it_is_loaded_from(
    start_server: StartServer,
) -> None:
    server = start_server("lab", base_url="/user/x/")
    namespace = status(server)["namespace"]
    for path in ("/lab", "/lab/tree/a.ipynb", "/lab/workspaces/w"):
        assert page_config(server, path)["nbsessionsNamespace"] == namespace


def test_a_page_of_notebook_7_knows_the_namespace_that_it_is_loaded_from(
    start_server: StartServer,
) -> None:
    if importlib.util.find_spec("notebook") is None:
        pytest.fail("This test needs Notebook 7: pip install 'notebook >= 7'", pytrace=False)
    server = start_server(extensions={"notebook": True})
    server.root_dir.joinpath("a.ipynb").write_text("{}")
    namespace = status(server)["namespace"]
    for path in ("/tree", "/notebooks/a.ipynb"):
        assert page_config(server, path)["nbsessionsNamespace"] == namespace


def test_no_page_is_told_a_namespace_by_a_server_that_another_session_manager_serves(
    start_server: StartServer,
) -> None:
    server = start_server("lab", config=OWN_MANAGER)
    assert "nbsessionsNamespace" not in page_config(server, "/lab")
    assert server.request("GET", f"{SESSIONS}/status").status == 404
