"""Sessions follow the files that are renamed or moved by whatever client, on each host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support.contents import EXTENSION
from support.rest import Reply
from support.server import Server, StartServer
from support.storefile import locked
from support.waiting import wait_until

HOSTS = ["newest", "oldest", "notebook6"]


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    """A server of each kind that can also be asked to rename as an extension does."""
    return start_shared_server(request.param, base_url="/user/x/", extensions=EXTENSION)


@pytest.fixture
def server(host: Server) -> Iterator[Server]:
    """A server without sessions and files."""
    yield host
    for model in host.list_sessions():
        host.delete(model["id"])
    host.wait_for_kernels(0)


@pytest.fixture(params=HOSTS)
def synchronous(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """A server of each kind with a synchronous contents manager."""
    config = {"contents_manager_class": "support.contents.OwnRenameFile"}
    sections = {"ServerApp": config, "NotebookApp": config}
    return start_server(request.param, extensions=EXTENSION, config=sections)


def add_file(server: Server, path: str) -> None:
    """Make an empty notebook."""
    file = server.root_dir / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')


def rename(server: Server, old: str, new: str) -> Reply:
    """Rename a file or folder as clients do."""
    return server.request("PATCH", f"/api/contents/{quote(old)}", {"path": new})


def move(server: Server, old: str, new: str) -> None:
    """Rename what has to be renamed."""
    reply = rename(server, old, new)
    assert (reply.status, reply.json()["path"]) == (200, new)


def shown(server: Server) -> list[tuple[str, str]]:
    """Return the paths and names of the sessions."""
    return [(model["path"], model["name"]) for model in server.list_sessions()]


def wait_for(server: Server, *expected: tuple[str, str]) -> None:
    """Wait until these are the paths and names: some hosts reply before sessions follow."""
    wait_until(lambda: shown(server) == list(expected), f"the sessions are {expected}")


# What follows


def test_a_session_follows_its_file(server: Server) -> None:
    add_file(server, "one/a.ipynb")
    before = server.create("one/a.ipynb", name="a.ipynb")

    move(server, "one/a.ipynb", "one/b.ipynb")

    wait_for(server, ("one/b.ipynb", "b.ipynb"))
    after = server.get(before["id"]).json()
    assert after["notebook"] == {"path": "one/b.ipynb", "name": "b.ipynb"}
    assert after["kernel"]["id"] == before["kernel"]["id"]
    assert [each["id"] for each in server.list_sessions("?path=one/b.ipynb")] == [before["id"]]


def test_who_opens_the_file_by_its_new_path_finds_its_session(server: Server) -> None:
    add_file(server, "two/a.ipynb")
    before = server.create("two/a.ipynb")

    move(server, "two/a.ipynb", "two/b.ipynb")

    assert server.create("two/b.ipynb")["id"] == before["id"]
    assert server.create("two/a.ipynb")["id"] != before["id"]


def test_all_sessions_in_a_folder_follow_it_and_no_others(server: Server) -> None:
    for path in ("three/x.ipynb", "three/deep/er/y.ipynb", "three.ipynb", "threes/z.ipynb"):
        add_file(server, path)
        server.create(path, name=Path(path).name)

    move(server, "three", "four")

    wait_for(
        server,
        ("four/x.ipynb", "x.ipynb"),
        ("four/deep/er/y.ipynb", "y.ipynb"),
        ("three.ipynb", "three.ipynb"),
        ("threes/z.ipynb", "z.ipynb"),
    )

    move(server, "four/deep", "deep")

    wait_until(lambda: shown(server)[1] == ("deep/er/y.ipynb", "y.ipynb"), "it follows again")


def test_several_sessions_of_one_file_follow_it(server: Server) -> None:
    add_file(server, "five/a.ipynb")
    first = server.create("five/a.ipynb", name="a.ipynb")
    second = server.create("five/b", type="console", name="my console")
    server.patch(second["id"], {"path": "/five/a.ipynb"})

    move(server, "five/a.ipynb", "five/c.ipynb")

    wait_for(server, ("five/c.ipynb", "c.ipynb"), ("/five/c.ipynb", "my console"))
    assert server.kernel_ids() == {first["kernel"]["id"], second["kernel"]["id"]}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("six/a b%20c.ipynb", "six/100% #1?.ipynb"),
        ("six/été.ipynb", "sept/日本/ünï.ipynb"),
        ("six/a+b.ipynb", "six/a&b.ipynb"),
    ],
)
def test_names_of_any_characters_follow(server: Server, old: str, new: str) -> None:
    add_file(server, old)
    (server.root_dir / new).parent.mkdir(parents=True, exist_ok=True)
    server.create(old, name=Path(old).name)

    move(server, old, new)

    wait_for(server, (new, Path(new).name))
    move(server, new, old)
    wait_for(server, (old, Path(old).name))


def test_a_rename_of_something_else_leaves_a_session_alone(server: Server) -> None:
    add_file(server, "seven/other.ipynb")
    before = server.create("seven/a.ipynb")

    move(server, "seven/other.ipynb", "seven/b.ipynb")

    assert server.get(before["id"]).json()["path"] == "seven/a.ipynb"


def test_a_rename_onto_the_path_of_a_session_keeps_both(server: Server) -> None:
    add_file(server, "eight/a.ipynb")
    first = server.create("eight/a.ipynb")
    second = server.create("eight/b.ipynb")

    move(server, "eight/a.ipynb", "eight/b.ipynb")

    wait_until(
        lambda: [path for path, _ in shown(server)] == ["eight/b.ipynb"] * 2, "both have the path"
    )
    assert server.kernel_ids() == {first["kernel"]["id"], second["kernel"]["id"]}


def test_a_deleted_file_leaves_its_session_alone(server: Server) -> None:
    add_file(server, "nine.ipynb")
    before = server.create("nine.ipynb")

    assert server.request("DELETE", "/api/contents/nine.ipynb").status == 204

    assert server.get(before["id"]).json()["path"] == "nine.ipynb"


def test_a_rename_within_the_process_is_followed(server: Server) -> None:
    add_file(server, "ten/a.ipynb")
    server.create("ten/a.ipynb", name="a.ipynb")

    body = {"old": "ten/a.ipynb", "new": "ten/b.ipynb", "thread": False}
    assert server.request("POST", "/rename-in-process", body).status == 200

    wait_for(server, ("ten/b.ipynb", "b.ipynb"))


def test_a_rename_in_a_thread_is_followed(synchronous: Server) -> None:
    add_file(synchronous, "a.ipynb")
    synchronous.create("a.ipynb", name="a.ipynb")

    body = {"old": "a.ipynb", "new": "b.ipynb", "thread": True}
    assert synchronous.request("POST", "/rename-in-process", body).status == 200

    wait_for(synchronous, ("b.ipynb", "b.ipynb"))


# The clients' own changes


def test_a_client_that_moves_its_session_first_changes_nothing_about_it(server: Server) -> None:
    add_file(server, "eleven/a.ipynb")
    before = server.create("eleven/a.ipynb", name="a.ipynb")

    reply = server.patch(before["id"], {"path": "eleven/b.ipynb", "name": "b.ipynb"})
    move(server, "eleven/a.ipynb", "eleven/b.ipynb")

    wait_for(server, ("eleven/b.ipynb", "b.ipynb"))
    assert reply.json()["kernel"]["id"] == before["kernel"]["id"]


def test_a_client_that_moves_its_session_afterwards_changes_nothing_about_it(
    server: Server,
) -> None:
    add_file(server, "twelve/a.ipynb")
    before = server.create("twelve/a.ipynb", name="a.ipynb")

    move(server, "twelve/a.ipynb", "twelve/b.ipynb")
    path = server.patch(before["id"], {"path": "twelve/b.ipynb"})
    name = server.patch(before["id"], {"name": "b.ipynb"})

    assert (path.status, name.status) == (200, 200)
    wait_for(server, ("twelve/b.ipynb", "b.ipynb"))
    assert name.json()["kernel"]["id"] == before["kernel"]["id"]


@pytest.mark.parametrize("host", ["newest", "oldest"], indirect=True)  # 6.5 tells no kernel.
def test_a_restarted_kernel_knows_the_new_path(server: Server) -> None:
    add_file(server, "thirteen/a.ipynb")
    model = server.create("thirteen/a.ipynb", kernel="python3", name="a.ipynb")
    kernel_id = model["kernel"]["id"]
    server.execute(kernel_id, "0")

    move(server, "thirteen/a.ipynb", "thirteen/b.ipynb")
    # After a while, a rename waits no longer for the sessions.
    wait_until(lambda: server.log_lines("I", "follows its file to 'thirteen/b"), "it follows")

    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200
    name = server.execute(kernel_id, "__import__('os').environ['JPY_SESSION_NAME']")
    assert name.strip("'") == str(server.root_dir / "thirteen" / "b.ipynb")


# Failures


def test_a_rename_that_fails_moves_nothing(server: Server) -> None:
    for path in ("fourteen/a.ipynb", "fourteen/b.ipynb"):
        add_file(server, path)
    server.create("fourteen/a.ipynb", name="a.ipynb")
    server.create("fourteen/gone.ipynb", name="gone.ipynb")

    assert rename(server, "fourteen/a.ipynb", "fourteen/b.ipynb").status == 409
    server.allow_errors("renaming|hosts/renames.py")
    assert rename(server, "fourteen/gone.ipynb", "fourteen/c.ipynb").status >= 400

    assert shown(server) == [
        ("fourteen/a.ipynb", "a.ipynb"),
        ("fourteen/gone.ipynb", "gone.ipynb"),
    ]


def test_a_file_is_renamed_also_when_the_store_is_down(server: Server) -> None:
    add_file(server, "fifteen/a.ipynb")
    before = server.create("fifteen/a.ipynb", name="a.ipynb")

    with locked(server.store):
        move(server, "fifteen/a.ipynb", "fifteen/b.ipynb")
        wait_until(
            lambda: server.log_lines("W", "fifteen/b.ipynb.*locked"), "a WARNING says what is so"
        )

    assert (server.root_dir / "fifteen" / "b.ipynb").exists()
    assert shown(server) == [("fifteen/a.ipynb", "a.ipynb")]
    assert server.patch(before["id"], {"path": "fifteen/b.ipynb"}).status == 200


# Contents managers of the user's own


@pytest.mark.parametrize("name", ["OwnRename", "OwnRenameFile", "OwnAsyncRename"])
def test_a_contents_manager_of_the_users_own_is_followed(
    start_server: StartServer, name: str
) -> None:
    own = start_server(
        config={"ServerApp": {"contents_manager_class": f"support.contents.{name}"}}
    )
    add_file(own, "a.ipynb")
    own.create("a.ipynb", name="a.ipynb")

    move(own, "a.ipynb", "b.ipynb")

    wait_for(own, ("b.ipynb", "b.ipynb"))
    assert own.stop() == 0


def test_moved_sessions_are_there_after_a_crash(start_server: StartServer) -> None:
    server = start_server()
    add_file(server, "a/x.ipynb")
    before = server.create("a/x.ipynb", name="x.ipynb")

    move(server, "a", "b")
    wait_for(server, ("b/x.ipynb", "x.ipynb"))
    server.kill()
    server.start()

    assert shown(server) == [("b/x.ipynb", "x.ipynb")]
    assert server.list_sessions()[0]["kernel"]["id"] == before["kernel"]["id"]
