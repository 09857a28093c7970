"""The life of a session with a real kernel, on every kind of server and at a base URL."""

from __future__ import annotations

import pytest

from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest

HOSTS = ["newest", "oldest", "notebook6"]
PLACES = [
    ("newest", "/"),
    ("newest", "/user/x/"),
    ("oldest", "/"),
    ("notebook6", "/user/x/"),
]


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: place[0] + place[1])
def server(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    host_name, base_url = request.param
    return start_shared_server(host_name, base_url=base_url)


def test_a_session_lives_from_its_post_to_its_delete(server: Server) -> None:
    created = server.create("a.ipynb", kernel="python3", name="a.ipynb")
    assert server.execute(created["kernel"]["id"], "6*7") == "42"

    moved = server.patch(created["id"], {"path": "b.ipynb", "name": "b.ipynb"})
    assert (moved.status, moved.json()["path"]) == (200, "b.ipynb")
    assert server.get(created["id"]).json()["notebook"] == {"path": "b.ipynb", "name": "b.ipynb"}
    assert [model["id"] for model in server.list_sessions()] == [created["id"]]

    assert server.delete(created["id"]).status == 204
    assert server.list_sessions() == []
    assert server.kernel_ids() == set()
    server.wait_for_kernels(0)
    wait_for_rest(server.store)


def test_a_created_session_has_all_that_clients_validate(server: Server) -> None:
    model = server.create("folder/c.ipynb")
    kernel = model.pop("kernel")

    assert model == {
        "id": model["id"],
        "path": "folder/c.ipynb",
        "name": "c.ipynb",
        "type": "notebook",
        "notebook": {"path": "folder/c.ipynb", "name": "c.ipynb"},
    }
    assert kernel["name"] == "light"
    assert {"id", "name", "last_activity", "execution_state", "connections"} <= kernel.keys()
    server.delete(model["id"])


def test_the_location_of_a_created_session_leads_to_it(server: Server) -> None:
    reply = server.post({"path": "d.ipynb", "type": "notebook", "kernel": {"name": "light"}})
    session_id = reply.json()["id"]

    assert reply.headers["location"] == server.url_path(f"/api/sessions/{session_id}")
    assert server.get(session_id).json()["id"] == session_id
    server.delete(session_id)


def test_another_kernel_name_brings_another_kernel_up_and_the_old_one_down(
    server: Server,
) -> None:
    before = server.create("e.ipynb", kernel="light")

    after = server.patch(before["id"], {"kernel": {"name": "python3"}}).json()

    assert after["id"] == before["id"]
    assert after["kernel"]["name"] == "python3"
    assert server.kernel_ids() == {after["kernel"]["id"]}
    assert server.execute(after["kernel"]["id"], "6*7") == "42"
    server.delete(before["id"])
    server.wait_for_kernels(0)


def test_the_kernel_of_a_session_knows_its_file(server: Server) -> None:
    model = server.create("notes/f.ipynb", kernel="python3")
    kernel_id = model["kernel"]["id"]
    # Notebook 6.5 has no such variable.
    expected = "" if server.host.module == "notebook" else "notes/f.ipynb"

    code = "__import__('os').environ.get('JPY_SESSION_NAME', '')"
    assert server.execute(kernel_id, code) == repr(expected)
    server.delete(model["id"])


def test_what_was_acknowledged_is_in_the_file(server: Server) -> None:
    model = server.create("g.ipynb")
    (row,) = read_store(server.store).sessions

    assert (row["session_id"], row["path"]) == (model["id"], "g.ipynb")
    assert row["kernel_id"] == model["kernel"]["id"]
    server.delete(model["id"])
    assert read_store(server.store).sessions == []


@pytest.mark.parametrize("host_name", HOSTS)
def test_sigterm_leaves_no_kernel_no_session_and_no_lock(
    start_server: StartServer, host_name: str
) -> None:
    server = start_server(host_name)
    server.create("a.ipynb", kernel="python3")
    server.create("b.ipynb")

    assert server.stop() == 0

    assert server.kernel_processes() == []
    contents = read_store(server.store)
    assert contents.sessions == []
    assert contents.unfinished() == []
    assert list(server.store.parent.glob("*.owner-*")) == []
