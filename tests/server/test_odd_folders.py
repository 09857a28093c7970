"""Whatever lies in a server's folders, and whatever they are on: Jupyter starts and works."""

from __future__ import annotations

import pytest

from support.server import AS_A_USER, Server, StartServer, forbidden, remove_at_once
from support.waiting import wait_until

HAS_NO_LOCKS = {"WITHOUT_LOCKS": "1"}


def check_works(server: Server) -> None:
    """A new notebook gets a kernel, which is shut down with its session."""
    model = server.create("new.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "6*7") == "42"
    assert server.delete(model["id"]).status == 204


# Files of another user


@pytest.mark.parametrize(
    "pattern", ["", "servers", "kernels", "servers/*", "kernels/*.json", "kernels/*.log"]
)
def test_a_server_starts_whatever_it_may_not_read_in_the_runtime_directory(
    start_server: StartServer, pattern: str
) -> None:
    server = start_server(wrapper=AS_A_USER)
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    folder = server.runtime_dir / "nbsessions"

    with forbidden(*folder.glob(pattern) if pattern else [folder]):
        server.start()
        check_works(server)
        assert server.stop() == 0

    # What could not be seen was not touched.
    server.start()
    if pattern == "kernels/*.log":
        assert server.list_sessions() == []  # It was taken over, and ended with its server.
    else:
        assert [each["id"] for each in server.list_sessions()] == [model["id"]]
        assert server.execute(model["kernel"]["id"], "x") == "42"


def test_a_runtime_directory_that_may_not_be_read_is_named_with_what_helps(
    start_server: StartServer,
) -> None:
    server = start_server(wrapper=AS_A_USER)
    server.create("a.ipynb")
    server.kill()
    folder = server.runtime_dir / "nbsessions"

    with forbidden(folder):
        server.start()
        for path in ("b.ipynb", "c.ipynb"):
            server.create(path)
        (old,) = server.log_lines("W", "Kernels of earlier servers are not taken over")
        (new,) = server.log_lines("W", "will end with this server")
        assert server.stop() == 0

    for line in (old, new):
        assert str(folder) in line
        assert "chown" in line


@pytest.mark.parametrize("pattern", ["sessions.db", "*"])
def test_a_server_works_in_memory_beside_a_store_of_another_user(
    start_server: StartServer, pattern: str
) -> None:
    server = start_server(wrapper=AS_A_USER)
    server.stop()
    folder = server.store.parent
    server.allow_errors("kept in memory")

    with forbidden(*folder.glob(pattern)):
        server.start()
        check_works(server)
        (line,) = server.log_lines("E", "kept in memory")
        assert server.stop() == 0

    assert "chown" in line
    assert str(folder) in line


def test_the_sessions_of_kernels_that_were_taken_over_are_waited_for(
    start_server: StartServer,
) -> None:
    server = start_server(wrapper=AS_A_USER)
    model = server.create("a.ipynb", "python3")
    server.kill()

    with forbidden(server.store):
        server.start()
        reply = server.request("GET", "/api/sessions")
        assert reply.status == 503
        assert "chown" in reply.message

    wait_until(lambda: server.request("GET", "/api/sessions").status == 200, "it is put right")
    assert [each["id"] for each in server.list_sessions()] == [model["id"]]


# No file locks


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_server_without_file_locks_starts_again_and_again(
    start_server: StartServer, ending: str
) -> None:
    server = start_server(start=False, environment=HAS_NO_LOCKS)
    server.allow_errors("kept in memory")
    for _ in range(3):
        server.start()
        check_works(server)
        server.create("a.ipynb")
        (line,) = server.log_lines("E", "kept in memory")
        assert "database_filepath" in line
        (line,) = server.log_lines("W", "will end with this server")
        assert "JUPYTER_RUNTIME_DIR" in line
        getattr(server, ending)()
        wait_until(lambda: not server.kernel_processes(), "kernels have ended with the server")
    assert list(server.runtime_dir.glob("nbsessions/servers/*")) == []


def test_a_server_without_file_locks_leaves_alone_what_others_left(
    start_server: StartServer,
) -> None:
    first = start_server()
    model = first.create("a.ipynb", "python3")
    first.kill()
    runtime = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
    second = start_server(
        start=False,
        data_dir=first.data_dir,
        root_dir=first.root_dir,
        environment={**HAS_NO_LOCKS, **runtime},
    )
    second.allow_errors("kept in memory")
    second.start()
    check_works(second)
    assert second.stop() == 0

    first.start()
    assert [each["id"] for each in first.list_sessions()] == [model["id"]]


# A runtime directory that is wiped


@pytest.mark.parametrize("all_of_it", [True, False])
def test_kernels_at_rest_survive_that_the_runtime_directory_was_wiped(
    start_server: StartServer, all_of_it: bool
) -> None:
    server = start_server()
    models = [server.create(path, "python3") for path in ("a.ipynb", "b.ipynb")]
    kernel_ids = {model["kernel"]["id"] for model in models}
    for number, kernel_id in enumerate(sorted(kernel_ids)):
        assert server.execute(kernel_id, f"x = {number}; x") == str(number)
    wait_until(lambda: not _changes(server), "all is written down")

    remove_at_once(server.runtime_dir if all_of_it else server.runtime_dir / "nbsessions")
    wait_until(lambda: server.kernel_records() == kernel_ids, "it is written down again")
    server.kill()
    server.start()

    assert {each["id"] for each in server.list_sessions()} == {each["id"] for each in models}
    for number, kernel_id in enumerate(sorted(kernel_ids)):
        assert server.execute(kernel_id, "x") == str(number)
    assert server.request("POST", f"/api/kernels/{kernel_id}/restart").status == 200
    assert server.execute(kernel_id, "6*7") == "42"


def _changes(server: Server) -> set[str]:
    """Return the kernels whose record does not have their state yet."""
    states = {
        model["id"]: model["execution_state"]
        for model in server.request("GET", "/api/kernels").json()
    }
    return {
        kernel_id
        for kernel_id, state in states.items()
        if state != "idle" or server.kernel_record(kernel_id)["execution_state"] != state
    }
