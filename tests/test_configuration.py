"""Configuration of the session manager: the store's location, and invalid values."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tornado.web import HTTPError
from traitlets import TraitError
from traitlets.config import Config, Configurable

from nbsessions import AsyncSessionManager
from support.hosts import make_contents_manager, running_kernel_manager

pytestmark = pytest.mark.gen_test


@asynccontextmanager
async def kernels(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Yield the managers that a session manager uses."""
    async with running_kernel_manager(folder) as kernel_manager:
        yield {
            "kernel_manager": kernel_manager,
            "contents_manager": make_contents_manager(folder),
        }


def configured(**sections: dict[str, Any]) -> AsyncSessionManager:
    """Return a session manager with this configuration."""
    return AsyncSessionManager(config=Config(sections))


def test_what_was_set_for_the_servers_own_manager_counts(tmp_path: Path) -> None:
    file = str(tmp_path / "sessions.db")
    manager = configured(SessionManager={"database_filepath": file})
    assert manager.database_filepath == file
    manager.close()


def test_what_was_set_for_this_class_counts_more(tmp_path: Path) -> None:
    theirs, ours = str(tmp_path / "theirs.db"), str(tmp_path / "ours.db")
    manager = configured(
        SessionManager={"database_filepath": theirs},
        AsyncSessionManager={"database_filepath": ours},
    )
    assert manager.database_filepath == ours
    manager.close()


def test_a_manager_without_a_server_leaves_peoples_files_alone() -> None:
    manager = AsyncSessionManager()
    assert manager.database_filepath == ":memory:"
    manager.close()


def test_the_default_file_is_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    manager = AsyncSessionManager(parent=Configurable())
    assert Path(manager.database_filepath).parent == tmp_path / "data" / "nbsessions"
    assert not (tmp_path / "data").exists()
    manager.close()


def test_the_namespace_is_the_real_root_directory(tmp_path: Path) -> None:
    class HasRoot:
        """A stub of a kernel manager."""

        root_dir = str(tmp_path / "link")

    (tmp_path / "link").symlink_to(tmp_path)
    manager = AsyncSessionManager(kernel_manager=HasRoot())
    assert manager.namespace == os.path.realpath(tmp_path)
    manager.close()


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(TraitError, match=r"database_filepath.*directory"):
        AsyncSessionManager(database_filepath=str(tmp_path))


def test_a_file_of_another_kind_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database")
    with pytest.raises(TraitError, match=r"database_filepath.*not an SQLite"):
        AsyncSessionManager(database_filepath=str(file))
    assert file.read_text() == "not a database"


def test_an_empty_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    AsyncSessionManager(database_filepath=str(tmp_path / "empty.db")).close()


def test_an_unknown_store_is_refused() -> None:
    with pytest.raises(TraitError, match="store_url"):
        AsyncSessionManager(store_url="nothing://here")


def test_an_unknown_kernel_provider_is_refused() -> None:
    with pytest.raises(TraitError, match="kernel_provider"):
        AsyncSessionManager(kernel_provider="nothing")


async def test_a_store_url_goes_before_a_file(tmp_path: Path) -> None:
    file, other = tmp_path / "url.db", tmp_path / "file.db"
    async with kernels(tmp_path) as managers:
        manager = AsyncSessionManager(
            store_url=f"sqlite://{file}", database_filepath=str(other), **managers
        )
        await manager.open()
        manager.close()
    assert file.exists()
    assert not other.exists()


async def test_a_folder_that_is_not_there_yet_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.service.opening._OPEN_TIMEOUT", 0.2)
    file = tmp_path / "missing" / "sessions.db"
    async with kernels(tmp_path) as managers:
        manager = AsyncSessionManager(database_filepath=str(file), **managers)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                with pytest.raises(HTTPError) as caught:
                    await manager.create_session(path="a.ipynb", type="notebook")
                assert caught.value.status_code == 503
        (warning,) = caplog.messages
        assert str(file) in warning
        assert not managers["kernel_manager"].list_kernel_ids()
        file.parent.mkdir()
        monkeypatch.setattr("nbsessions.service.opening._OPEN_TIMEOUT", 60.0)
        model = await manager.create_session(path="a.ipynb", type="notebook")
        assert await manager.list_sessions() == [model]
        manager.close()


async def test_sessions_are_kept_in_memory_when_something_is_in_the_way_of_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "sessions.db"
    async with kernels(tmp_path) as managers:
        manager = AsyncSessionManager(database_filepath=str(file), **managers)
        with caplog.at_level(logging.ERROR):
            model = await manager.create_session(path="a.ipynb", type="notebook")
        (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert "memory" in record.getMessage()
        assert str(file) in record.getMessage()
        assert await manager.list_sessions() == [model]
        manager.close()


async def test_a_store_that_was_opened_in_vain_can_be_closed(tmp_path: Path) -> None:
    async with kernels(tmp_path) as managers:
        manager = AsyncSessionManager(
            database_filepath=str(tmp_path / "missing" / "sessions.db"), **managers
        )
        manager.close()
        manager.close()


async def test_one_manager_after_another_serves_the_sessions_of_a_file(tmp_path: Path) -> None:
    file = str(tmp_path / "sessions.db")
    async with kernels(tmp_path) as managers:
        first = AsyncSessionManager(database_filepath=file, **managers)
        model = await first.create_session(path="a.ipynb", name="A", type="notebook")
        first.close()
        second = AsyncSessionManager(database_filepath=file, **managers)
        assert await second.list_sessions() == [model]
        assert await second.create_session(path="a.ipynb", type="notebook") == model
        await second.delete_session(model["id"])
        second.close()


async def test_sessions_whose_kernels_went_with_their_server_are_gone(tmp_path: Path) -> None:
    file = str(tmp_path / "sessions.db")
    async with kernels(tmp_path) as managers:
        first = AsyncSessionManager(database_filepath=file, **managers)
        model = await first.create_session(path="a.ipynb", type="notebook")
        await managers["kernel_manager"].shutdown_kernel(model["kernel"]["id"], now=True)
        first.close()
        second = AsyncSessionManager(database_filepath=file, **managers)
        assert await second.list_sessions() == []
        second.close()


async def test_sessions_of_another_namespace_are_not_seen(tmp_path: Path) -> None:
    file = str(tmp_path / "sessions.db")
    async with kernels(tmp_path) as managers:
        first = AsyncSessionManager(database_filepath=file, namespace="one", **managers)
        await first.create_session(path="a.ipynb", type="notebook")
        first.close()
        second = AsyncSessionManager(database_filepath=file, namespace="two", **managers)
        assert await second.list_sessions() == []
        second.close()


async def test_a_file_of_the_servers_own_manager_is_read_and_left_as_it_was(
    tmp_path: Path,
) -> None:
    file = tmp_path / "stock.db"
    async with kernels(tmp_path) as managers:
        kernel_id = await managers["kernel_manager"].start_kernel()
        row = ("id-of-stock", "a.ipynb", "A", "notebook", kernel_id)
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")
        connection.execute("INSERT INTO session VALUES (?, ?, ?, ?, ?)", row)
        connection.commit()
        manager = AsyncSessionManager(database_filepath=str(file), **managers)
        ((model),) = await manager.list_sessions()
        assert (model["id"], model["kernel"]["id"]) == ("id-of-stock", kernel_id)
        await manager.delete_session("id-of-stock")
        manager.close()
        assert connection.execute("SELECT * FROM session").fetchall() == [row]
        connection.close()
