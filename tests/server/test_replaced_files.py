"""Files that are removed, replaced or put back under a live server: it writes what it knows."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nbsessions.locks import FileLock
from support.server import Server, StartServer
from support.storefile import find_paths, read_store
from support.waiting import wait_until


def listed(server: Server) -> dict[str, tuple[str, str]]:
    """Return the paths and kernels of the sessions, by their ids."""
    models = server.list_sessions()
    return {each["id"]: (each["path"], each["kernel"]["id"]) for each in models}


def check_survives(server: Server) -> None:
    """After kill -9, the next server has what this one lists."""
    before = listed(server)
    server.kill()
    server.start()
    assert listed(server) == before
    assert server.kernel_ids() == {kernel_id for _, kernel_id in before.values()}


def remove_the_file(server: Server) -> None:
    for path in server.store.parent.glob("sessions.db*"):
        path.unlink()


def remove_the_folder(server: Server) -> None:
    shutil.rmtree(server.store.parent)


def remove_the_locks(server: Server) -> None:
    for path in server.store.parent.glob("sessions.db.*"):
        path.unlink()


REMOVALS = [remove_the_file, remove_the_folder, remove_the_locks]


def is_locked(path: Path) -> bool:
    """Return whether somebody holds the lock of a file that is there."""
    try:
        lock = FileLock(path, flags=0x2)
    except FileNotFoundError:
        return False
    with closing(lock):
        return not lock.acquire()


def is_back(server: Server) -> bool:
    """Return whether the file has all that the server lists, and its locks are held again."""
    owners = list(server.store.parent.glob("sessions.db.owner-*"))
    return (
        server.store.exists()
        and len(owners) == 1
        and all(map(is_locked, [*owners, server.store.with_name("sessions.db.lock")]))
        and find_paths(server.store)
        == {session_id: path for session_id, (path, _) in listed(server).items()}
    )


@pytest.mark.parametrize("remove", REMOVALS)
def test_what_is_removed_is_written_again_by_a_server_that_is_at_rest(
    start_server: StartServer, remove: Callable[[Server], None]
) -> None:
    server = start_server()
    server.create("a.ipynb", "python3")

    remove(server)

    wait_until(lambda: is_back(server), "all is there again")
    check_survives(server)


@pytest.mark.parametrize("remove", REMOVALS)
def test_what_is_removed_is_written_again_with_the_next_write(
    start_server: StartServer, remove: Callable[[Server], None]
) -> None:
    server = start_server()
    server.create("a.ipynb")

    remove(server)
    server.create("b.ipynb")

    assert is_back(server)
    check_survives(server)


def test_servers_go_on_together_after_their_file_was_removed(start_server: StartServer) -> None:
    first = start_server()
    second = start_server(data_dir=first.data_dir)
    first.create("a.ipynb")
    second.create("b.ipynb")

    remove_the_file(first)
    first.create("c.ipynb")
    third = start_server(data_dir=first.data_dir)
    third.create("d.ipynb")
    second.create("e.ipynb")

    everything = {**listed(first), **listed(second), **listed(third)}
    assert read_store(first.store).session_ids() == set(everything)
    for server in (first, second, third):
        check_survives(server)


# Put back to an earlier state


def copy(server: Server) -> Path:
    """Return a copy of the file as it is now."""
    backup = server.folder / "backup.db"
    with closing(sqlite3.connect(server.store)) as source, closing(sqlite3.connect(backup)) as to:
        source.backup(to)
    return backup


def move_back(server: Server, backup: Path) -> None:
    """Rename the copy onto the file, as `mv` and sync tools do."""
    backup.replace(server.store)


def restore(server: Server, backup: Path) -> None:
    """Write the copy into the file, as `.restore` does."""
    with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(server.store)) as to:
        source.backup(to)


BACKUPS = [move_back, restore]


class Changed:
    """A server on which all kinds of changes were made since a copy of its file was taken."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.renamed, self.deleted, self.kept = (
            server.create(path) for path in ("renamed.ipynb", "deleted.ipynb", "kept.ipynb")
        )
        self.backup = copy(server)
        assert server.patch(self.renamed["id"], {"path": "new name.ipynb"}).status == 200
        assert server.delete(self.deleted["id"]).status == 204
        self.created = server.create("created.ipynb")
        self.expected = {
            self.renamed["id"]: "new name.ipynb",
            self.kept["id"]: "kept.ipynb",
            self.created["id"]: "created.ipynb",
        }

    def paths(self) -> dict[str, Any]:
        return {key: path for key, (path, _) in listed(self.server).items()}

    def stored(self) -> dict[str, Any]:
        return find_paths(self.server.store) or {}


@pytest.mark.parametrize("put_back", BACKUPS)
def test_a_backup_that_is_put_back_reverts_nothing(
    start_server: StartServer, put_back: Callable[[Server, Path], None]
) -> None:
    server = start_server()
    changed = Changed(server)

    put_back(server, changed.backup)
    assert changed.paths() == changed.expected
    after = server.create("after.ipynb")

    expected = {**changed.expected, after["id"]: "after.ipynb"}
    assert changed.paths() == expected
    assert changed.stored() == expected
    check_survives(server)


@pytest.mark.parametrize("put_back", BACKUPS)
def test_a_backup_that_is_put_back_under_a_server_at_rest_is_brought_up_to_date(
    start_server: StartServer, put_back: Callable[[Server, Path], None]
) -> None:
    server = start_server()
    changed = Changed(server)

    put_back(server, changed.backup)

    wait_until(lambda: changed.stored() == changed.expected, "the file is up to date")
    assert changed.paths() == changed.expected
    check_survives(server)


@pytest.mark.parametrize("put_back", BACKUPS)
def test_a_backup_is_brought_up_to_date_by_all_servers_that_use_the_file(
    start_server: StartServer, put_back: Callable[[Server, Path], None]
) -> None:
    first = start_server()
    second = start_server(data_dir=first.data_dir)
    changed, others = Changed(first), Changed(second)

    put_back(first, changed.backup)
    first.create("after.ipynb")
    second.create("after.ipynb")

    both = {**listed(first), **listed(second)}
    assert changed.stored().keys() == both.keys()
    assert others.paths().items() >= others.expected.items()
    check_survives(first)
    check_survives(second)


# Forgotten


@pytest.mark.parametrize("rows", ["the owner", "the owner and all that it had"])
def test_a_server_that_was_forgotten_registers_anew(start_server: StartServer, rows: str) -> None:
    server = start_server()
    server.create("a.ipynb")
    with closing(sqlite3.connect(server.store, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE nbsessions_namespace SET revision = revision + 1")
        connection.execute("DELETE FROM nbsessions_owner")
        if rows != "the owner":
            connection.execute("DELETE FROM nbsessions_session")
        connection.execute("COMMIT")

    server.create("b.ipynb")

    assert read_store(server.store).session_ids() == set(listed(server))
    assert len(read_store(server.store).owners) == 1
    check_survives(server)
