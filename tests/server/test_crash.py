"""A server that is killed with its kernels: what was acknowledged is in the file, and the next
start is clean.
"""

from __future__ import annotations

from support.server import Server, StartServer
from support.storefile import read_store, wait_for_rest


def _started_again(server: Server) -> Server:
    """Start on the same file, and wait until the start has settled what was left."""
    server.start()
    assert server.list_sessions() == []
    wait_for_rest(server.store)
    return server


def test_every_acknowledged_session_is_in_the_file_at_a_crash(start_server: StartServer) -> None:
    server = start_server()
    models = [server.create("a.ipynb", kernel="python3"), server.create("b.ipynb")]
    server.patch(models[1]["id"], {"path": "c.ipynb"})
    deleted = server.create("d.ipynb")
    server.delete(deleted["id"])

    server.kill()

    rows = read_store(server.store).sessions
    assert [(row["session_id"], row["path"], row["kernel_id"]) for row in rows] == [
        (models[0]["id"], "a.ipynb", models[0]["kernel"]["id"]),
        (models[1]["id"], "c.ipynb", models[1]["kernel"]["id"]),
    ]


def test_the_next_start_ends_the_sessions_whose_kernels_died(start_server: StartServer) -> None:
    server = start_server()
    models = [server.create(path, kernel="python3") for path in ("a.ipynb", "b.ipynb")]
    server.kill()
    server.kill_kernels()

    _started_again(server)

    assert read_store(server.store).sessions == []
    assert len(read_store(server.store).owners) == 1
    ended = server.log_lines("I", "ended: its kernel")
    assert len(ended) == 2
    for model, line in zip(models, ended, strict=True):
        assert model["path"] in line
        assert model["kernel"]["id"] in line
    assert server.log_lines("W", "nbsessions|[Ss]ession") == []


def test_paths_of_a_killed_server_can_be_used_again(start_server: StartServer) -> None:
    server = start_server()
    before = server.create("a.ipynb")
    server.kill()
    server.kill_kernels()

    after = _started_again(server).create("a.ipynb", kernel="python3")

    assert after["id"] != before["id"]
    assert server.execute(after["kernel"]["id"], "6*7") == "42"


def test_the_locks_of_killed_servers_are_cleaned_up(start_server: StartServer) -> None:
    server = start_server()
    for _ in range(2):
        server.create("a.ipynb")
        server.kill()
        server.kill_kernels()
        _started_again(server)
    server.create("a.ipynb")

    def locks() -> list[int]:
        folders = (server.store.parent, server.runtime_dir)
        return [
            len(list(folder.glob(pattern)))
            for folder, pattern in zip(folders, ("*.owner-*", "nbsessions/servers/*"), strict=True)
        ]

    assert locks() == [1, 1]
    server.stop()
    assert locks() == [0, 0]


def test_a_start_after_a_clean_stop_has_nothing_to_end(start_server: StartServer) -> None:
    server = start_server()
    server.create("a.ipynb")
    server.stop()
    assert read_store(server.store).owners == []

    _started_again(server)

    assert server.log_lines("I", "ended: its kernel") == []
    assert len(read_store(server.store).owners) == 1
