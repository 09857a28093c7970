"""A server that is killed between an intent, the kernel and the commit, and whose kernels live."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.failpoints import EXTENSION, Failpoints
from support.postgres import shared_cluster
from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest

CREATE = [
    # (where, how many new sessions there may be)
    ("before acquire", {0}),
    ("after acquire", {0}),
    ("before start", {0}),
    ("after start", {0, 1}),  # The session is written while the start goes on.
    ("before commit", {0}),
    ("after commit", {1}),
]
DELETE = [
    # (where, whether the old session was still there)
    ("before delete", True),
    ("after delete", False),
    ("before shutdown", False),
    ("after shutdown", False),
    ("before finish_stop", False),
    ("after finish_stop", False),
]
PATCH = [
    # (where, whether the session had its new kernel)
    ("after acquire", False),
    ("after start", False),
    ("before update", False),
    ("after update", True),
    ("after shutdown", True),
]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def one_server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    """A server that is killed and started again by one test after the other."""
    config = {"AsyncSessionManager": {"namespace": "a namespace"}}
    server = start_shared_server(start=False, extensions=EXTENSION, config=config)
    server.environment.update(_failpoints(server).environment)
    if request.param == "postgres":
        server.environment["NBSESSIONS_STORE_URL"] = shared_cluster().make_schema()
    return server


@pytest.fixture
def server(one_server: Server) -> Server:
    """The running server, with the session ``kept.ipynb`` and no other."""
    if not one_server.is_running:
        one_server.start()
    for model in one_server.list_sessions():
        one_server.delete(model["id"])
    one_server.create("kept.ipynb")
    return one_server


@pytest.mark.parametrize(("point", "numbers"), CREATE)
def test_a_kill_in_a_create_leaves_a_whole_session_or_nothing(
    server: Server, point: str, numbers: set[int]
) -> None:
    with _killed_at(server, point):
        server.create("new.ipynb", kernel="python3")

    paths = [row["path"] for row in read_store(_place(server)).sessions]
    assert paths in [["kept.ipynb"] + ["new.ipynb"] * number for number in numbers]
    _check_clean_start(server, "new.ipynb")


@pytest.mark.parametrize(("point", "there"), DELETE)
def test_a_kill_in_a_delete_leaves_a_whole_session_or_nothing(
    server: Server, point: str, there: bool
) -> None:
    (kept,) = server.list_sessions()
    with _killed_at(server, point):
        server.delete(kept["id"])

    paths = [row["path"] for row in read_store(_place(server)).sessions]
    assert paths == ["kept.ipynb"] * there
    _check_clean_start(server, "kept.ipynb")


@pytest.mark.parametrize(("point", "exchanged"), PATCH)
def test_a_kill_in_an_exchange_of_kernels_leaves_one_of_them(
    server: Server, point: str, exchanged: bool
) -> None:
    (kept,) = server.list_sessions()
    with _killed_at(server, point):
        server.patch(kept["id"], {"kernel": {"name": "python3"}})

    (row,) = read_store(_place(server)).sessions
    assert row["kernel_name"] == ("python3" if exchanged else "light")
    _check_clean_start(server, "kept.ipynb")


def _place(server: Server) -> Path | str:
    return server.environment.get("NBSESSIONS_STORE_URL") or server.store


def _failpoints(server: Server) -> Failpoints:
    return Failpoints(server.folder / "failpoints")


@contextmanager
def _killed_at(server: Server, point: str) -> Iterator[None]:
    """Run a request whose answer never comes, because the server dies at the point."""
    failpoints = _failpoints(server)
    failpoints.set("kill", point)
    try:
        with pytest.raises((http.client.HTTPException, OSError)):
            yield
        server.wait_for_end()
    finally:
        failpoints.clear("kill")


def _check_clean_start(server: Server, path: str) -> None:
    """The next start brings back what is in the file, and ends all other kernels."""
    kept = read_store(_place(server)).sessions
    server.start()
    assert [(each["id"], each["kernel"]["id"]) for each in server.list_sessions()] == [
        (row["session_id"], row["kernel_id"]) for row in kept
    ]
    wait_for_rest(_place(server))
    contents = read_store(_place(server))
    assert contents.session_ids() == {row["session_id"] for row in kept}
    assert len(contents.owners) == 1
    server.wait_for_kernels(len(kept))
    assert server.kernel_records() == {row["kernel_id"] for row in kept}
    assert server.create(path)["id"] in {each["id"] for each in server.list_sessions()}
    assert len(server.kernel_processes()) == len(server.list_sessions())
