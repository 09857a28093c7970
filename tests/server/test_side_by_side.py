"""Several servers of one user on the default file: each has its own sessions."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.server import Server, StartServer, servers_in
from support.storefile import read_store, wait_for_rest

PLACES = ["one root directory", "different root directories"]


@pytest.fixture(scope="module", params=PLACES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """Two servers on one file."""
    folder = tmp_path_factory.mktemp("pair")
    data_dir = folder / "data"
    with servers_in(folder) as start:
        first = start(data_dir=data_dir, root_dir=folder / "root")
        other = folder / ("root" if request.param == PLACES[0] else "other")
        yield first, start(data_dir=data_dir, root_dir=other)


@pytest.fixture
def servers(pair: tuple[Server, Server]) -> Iterator[tuple[Server, Server]]:
    """The two servers, running, without sessions."""
    for server in pair:
        if not server.is_running:
            server.start()
    yield pair
    for server in pair:
        if server.is_running:
            for model in server.list_sessions():
                server.delete(model["id"])


def test_each_sees_its_own_sessions(servers: tuple[Server, Server]) -> None:
    first, second = servers
    ours = first.create("a.ipynb")
    theirs = second.create("b.ipynb")

    assert [model["id"] for model in first.list_sessions()] == [ours["id"]]
    assert [model["id"] for model in second.list_sessions()] == [theirs["id"]]
    assert second.get(ours["id"]).status == 404
    assert second.delete(ours["id"]).status == 404
    assert first.get(ours["id"]).status == 200
    assert read_store(first.store).session_ids() == {ours["id"], theirs["id"]}


def test_one_path_is_a_session_in_each(servers: tuple[Server, Server]) -> None:
    first, second = servers

    ours, theirs = first.create("a.ipynb"), second.create("a.ipynb")

    assert ours["id"] != theirs["id"]
    assert ours["kernel"]["id"] != theirs["kernel"]["id"]


def test_a_kernel_id_of_the_other_is_a_409(servers: tuple[Server, Server]) -> None:
    first, second = servers
    ours = first.create("a.ipynb")
    kernel = {"id": ours["kernel"]["id"], "name": "light"}

    reply = second.post({"path": "b.ipynb", "type": "notebook", "kernel": kernel})

    assert reply.status == 409
    assert second.list_sessions() == []
    assert second.kernel_ids() == set()
    assert len(first.kernel_processes()) == 1


def test_a_stop_of_one_leaves_the_others_sessions(servers: tuple[Server, Server]) -> None:
    first, second = servers
    first.create("a.ipynb")
    theirs = second.create("b.ipynb", kernel="python3")

    assert first.stop() == 0

    assert read_store(second.store).session_ids() == {theirs["id"]}
    assert [model["id"] for model in second.list_sessions()] == [theirs["id"]]
    assert second.execute(theirs["kernel"]["id"], "6*7") == "42"


def test_a_start_after_a_crash_ends_the_sessions_of_the_dead_only(
    servers: tuple[Server, Server],
) -> None:
    first, second = servers
    first.create("a.ipynb")
    theirs = second.create("b.ipynb")
    first.kill()
    first.kill_kernels()

    first.start()
    assert first.list_sessions() == []
    wait_for_rest(first.store)

    assert read_store(first.store).session_ids() == {theirs["id"]}
    assert len(first.log_lines("I", "ended: its kernel")) == 1
    assert [model["id"] for model in second.list_sessions()] == [theirs["id"]]
    assert len(second.kernel_processes()) == 1


def test_a_kernel_id_with_a_connection_file_in_a_shared_folder_is_a_409(
    start_server: StartServer, tmp_path: Path
) -> None:
    first = start_server()
    runtime = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
    second = start_server(environment=runtime)
    kernel_id = str(uuid.uuid4())
    ours = first.create("a.ipynb", {"id": kernel_id, "name": "python3"})

    reply = second.post(
        {"path": "b.ipynb", "type": "notebook", "kernel": {"id": kernel_id, "name": "light"}}
    )

    assert ours["kernel"]["id"] == kernel_id
    assert reply.status == 409
    assert first.execute(kernel_id, "6*7") == "42"
