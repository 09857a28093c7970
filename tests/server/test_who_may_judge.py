"""A kernel that a server does not see is not dead: its session waits for who does see it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nbsessions.identity import boot_id
from support.server import Server, StartServer
from support.storefile import read_store
from support.waiting import wait_until

SHARED = {"AsyncSessionManager": {"namespace": "my notebooks"}}


def leave_a_session(server: Server) -> dict[str, object]:
    """Create a session, with a variable in its kernel, and kill the server."""
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "x = 42; x") == "42"
    server.kill()
    return model


def check_it_goes_on(server: Server, model: dict[str, object]) -> None:
    """The next server that sees the kernel has the session, the kernel and the variable."""
    (found,) = server.start().list_sessions()
    assert (found["id"], found["kernel"]["id"]) == (model["id"], model["kernel"]["id"])  # type: ignore[index]
    assert server.execute(found["kernel"]["id"], "x") == "42"


def visit(server: Server) -> None:
    """Start a server that does not see the kernel, use it, and stop it."""
    server.start()
    assert server.list_sessions() == []
    other = server.create("b.ipynb")
    assert [each["id"] for each in server.list_sessions()] == [other["id"]]
    assert server.stop() == 0


def test_a_server_of_another_folder_of_the_namespace_leaves_a_session_alone(
    start_server: StartServer, tmp_path: Path
) -> None:
    first = start_server(config=SHARED)
    runtime = {"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)}
    second = start_server(start=False, config=SHARED, data_dir=first.data_dir, environment=runtime)
    model = leave_a_session(first)

    visit(second)

    assert model["id"] in read_store(first.store).session_ids()
    check_it_goes_on(first, model)


def test_a_server_with_another_runtime_directory_leaves_a_session_alone(
    start_server: StartServer,
) -> None:
    first = start_server()
    second = start_server(start=False, data_dir=first.data_dir, root_dir=first.root_dir)
    model = leave_a_session(first)

    visit(second)

    check_it_goes_on(first, model)


def test_a_server_in_another_pid_namespace_leaves_a_session_alone(
    start_server: StartServer,
) -> None:
    first = start_server()
    second = start_server(
        start=False,
        data_dir=first.data_dir,
        root_dir=first.root_dir,
        environment={"JUPYTER_RUNTIME_DIR": str(first.runtime_dir)},
        wrapper=["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"],
    )
    model = leave_a_session(first)

    second.start()
    assert second.list_sessions() == []
    second.kill()

    check_it_goes_on(first, model)


def test_a_kernel_that_cannot_be_adopted_keeps_its_session(start_server: StartServer) -> None:
    server = start_server()
    model = leave_a_session(server)
    kernel_id = model["kernel"]["id"]  # type: ignore[index]
    file = server.runtime_dir / "nbsessions" / "kernels" / f"{kernel_id}.json"
    whole = file.read_bytes()
    record = json.loads(whole)
    del record["connection_info"]["shell_port"]
    file.write_text(json.dumps(record))

    server.allow_errors("nbsessions/(kernels/surviving|registry)/")  # the traceback of the warning
    visit(server)
    assert server.log_lines("W", "left as it is")

    file.write_bytes(whole)
    check_it_goes_on(server, model)


def test_a_kernel_that_runs_without_a_record_keeps_its_session(start_server: StartServer) -> None:
    server = start_server()
    model = leave_a_session(server)
    (record,) = server.runtime_dir.glob("nbsessions/kernels/*.json")
    whole = record.read_bytes()
    record.unlink()

    visit(server)
    assert model["id"] in read_store(server.store).session_ids()

    # Its server is forgotten, as nothing was left of it: nobody follows the kernel any more.
    record.write_bytes(whole)
    server.kill_kernels()
    server.start()
    wait_until(
        lambda: model["id"] not in read_store(server.store).session_ids(), "the session has ended"
    )


@pytest.mark.parametrize("visited", [False, True], ids=["at once", "after a visit"])
def test_a_kernel_that_has_ended_ends_its_session_at_the_next_start(
    start_server: StartServer, visited: bool
) -> None:
    first = start_server()
    second = start_server(start=False, data_dir=first.data_dir, root_dir=first.root_dir)
    model = leave_a_session(first)
    if visited:
        visit(second)
    first.kill_kernels()

    assert first.start().list_sessions() == []

    assert model["id"] not in read_store(first.store).session_ids()
    assert len(first.log_lines("I", "ended: its kernel")) == 1


def test_a_kernel_of_an_earlier_boot_ends_its_session_at_the_next_start(
    start_server: StartServer,
) -> None:
    server = start_server()
    leave_a_session(server)
    _to_earlier_boot(server)

    assert server.start().list_sessions() == []
    assert len(server.log_lines("I", "ended: its kernel")) == 1


def _to_earlier_boot(server: Server) -> None:
    """Have all that is written down look as it would after a reboot."""
    server.kill_kernels()
    for file in server.runtime_dir.glob("nbsessions/kernels/*.json"):
        file.write_text(file.read_text().replace(boot_id(), "an-earlier-boot"))
    with closing(sqlite3.connect(server.store, isolation_level=None)) as connection:
        for table, column in (("session", "provider"), ("owner", "provider"), ("owner", "boot")):
            connection.execute(
                f"UPDATE nbsessions_{table} SET {column} = replace({column}, ?, ?)",
                (boot_id(), "an-earlier-boot"),
            )
