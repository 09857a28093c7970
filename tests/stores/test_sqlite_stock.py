"""Files of jupyter_server's own session manager: imported once, never altered."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.contents.manager import ContentsManager
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager
from jupyter_server.services.sessions.sessionmanager import SessionManager
from msgspec import UNSET

from nbsessions.models import Changes
from support.stores import Stores, ids, recover, rows
from support.values import make_owner, make_session


class AnyKernel(MappingKernelManager):
    """Reports that every kernel exists, because these tests are only about sessions."""

    def __contains__(self, kernel_id: str) -> bool:
        return True

    def kernel_model(self, kernel_id: str) -> dict[str, Any]:
        return {"id": kernel_id}

    def update_env(self, *, kernel_id: str, env: dict[str, str]) -> None:
        pass


@pytest.fixture
def stock(stores: Stores) -> Iterator[Callable[[], SessionManager]]:
    """Create jupyter_server's own session manager on the file of the stores."""
    made = []

    def make() -> SessionManager:
        stores.path.touch(mode=0o644)
        manager = SessionManager(
            kernel_manager=AnyKernel(),
            contents_manager=ContentsManager(),
            database_filepath=str(stores.path),
        )
        made.append(manager)
        return manager

    yield make
    for manager in made:
        close(manager)


def close(manager: SessionManager) -> None:
    manager.close()
    if manager._connection is not None:
        manager._connection.close()


def table_of(path: Path) -> list[Any]:
    """Return the SQL that created the stock table, and its rows."""
    return [
        rows(path, "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name = 'session'"),
        rows(path, "SELECT rowid, * FROM session ORDER BY rowid"),
        rows(path, "PRAGMA table_info(session)"),
    ]


async def save(manager: SessionManager, path: str | None = "a.ipynb") -> dict[str, Any]:
    return await manager.save_session(
        manager.new_session_id(), path=path, name="a", type="notebook", kernel_id="kernel-a"
    )


@pytest.mark.gen_test
async def test_the_sessions_of_a_stock_file_are_imported(
    stores: Stores, stock: Callable[[], SessionManager]
) -> None:
    manager = stock()
    saved = [await save(manager, path) for path in ("a.ipynb", "/b ü.ipynb", None)]
    close(manager)
    store = await stores.open()
    assert list(await store.list_sessions()) == []
    orphans = await store.find_orphans()
    assert [(each.session_id, each.path, each.name, each.type) for each in orphans.sessions] == [
        (model["id"], model["path"], "a", "notebook") for model in saved
    ]
    assert {each.kernel_id for each in orphans.sessions} == {"kernel-a"}
    adopted = [model["id"] for model in saved]
    assert await recover(store, orphans, adopted) == []
    assert ids(await store.list_sessions()) == adopted


@pytest.mark.gen_test
async def test_a_stock_file_is_imported_once(
    stores: Stores, stock: Callable[[], SessionManager]
) -> None:
    manager = stock()
    await save(manager)
    close(manager)
    store = await stores.open()
    await recover(store, await store.find_orphans())
    store.close()
    store = await stores.open(make_owner("next"))
    orphans = await store.find_orphans()
    assert orphans.sessions == ()
    store.close()
    another = await stores.open(make_owner("other"), namespace="another namespace")
    assert (await another.find_orphans()).sessions == ()


@pytest.mark.gen_test
async def test_the_stock_table_is_never_altered_and_stock_goes_on_using_it(
    stores: Stores, stock: Callable[[], SessionManager]
) -> None:
    manager = stock()
    model = await save(manager)
    close(manager)
    before = table_of(stores.path)
    store = await stores.open()
    await recover(store, await store.find_orphans(), [model["id"]])
    session = await store.insert(make_session("b.ipynb"))
    await store.update(session.session_id, Changes(path="c", name=UNSET), stop_token="stop")
    await store.delete(model["id"], stop_token="another stop")
    store.close()
    assert table_of(stores.path) == before
    again = stock()
    assert [each["id"] for each in await again.list_sessions()] == [model["id"]]
    added = await save(again, "d.ipynb")
    await again.update_session(added["id"], path="e.ipynb")
    assert (await again.get_session(path="e.ipynb"))["id"] == added["id"]


@pytest.mark.gen_test
async def test_stock_and_we_use_one_file_at_the_same_time(
    stores: Stores, stock: Callable[[], SessionManager]
) -> None:
    manager = stock()
    await save(manager)
    store = await stores.open()
    ours = await store.insert(make_session("ours.ipynb"))
    theirs = await save(manager, "theirs.ipynb")
    assert list(await store.list_sessions()) == [ours]
    assert theirs["id"] in [each["id"] for each in await manager.list_sessions()]


@pytest.mark.gen_test
async def test_a_stock_file_keeps_its_journal_mode_and_permissions(
    stores: Stores, stock: Callable[[], SessionManager]
) -> None:
    manager = stock()
    await save(manager)
    close(manager)
    stores.path.chmod(0o640)
    store = await stores.open()
    await store.insert(make_session())
    assert rows(stores.path, "PRAGMA journal_mode") == [("delete",)]
    assert stores.path.stat().st_mode & 0o777 == 0o640


@pytest.mark.gen_test
async def test_rows_that_cannot_be_sessions_do_not_keep_a_server_from_starting(
    stores: Stores, stock: Callable[[], SessionManager]
) -> None:
    manager = stock()
    good = await save(manager)
    odd = [
        (None, "a", "a", "notebook", "kernel"),
        ("no-kernel", "a", "a", "notebook", None),
        (good["id"], "again.ipynb", "a", "notebook", "kernel"),
        ("number", 5, 6, 7, "kernel"),
        (8, "a", "a", "notebook", "kernel"),
        ("blob", b"\xff", "a", "notebook", b"\xff"),
    ]
    manager.cursor.executemany("INSERT INTO session VALUES (?, ?, ?, ?, ?)", odd)
    close(manager)
    orphans = await (await stores.open()).find_orphans()
    assert [(each.session_id, each.path) for each in orphans.sessions] == [(good["id"], "a.ipynb")]


@pytest.mark.gen_test
async def test_another_table_of_that_name_is_not_taken_for_stock(stores: Stores) -> None:
    connection = sqlite3.connect(stores.path)
    connection.execute("CREATE TABLE session (session_id, name, path, kernel_id)")
    connection.execute("INSERT INTO session VALUES ('id', 'name', 'path', 'kernel')")
    connection.commit()
    connection.close()
    store = await stores.open()
    assert (await store.find_orphans()).sessions == ()
