"""The SQLite file: its permissions, how it is synced, and what happens if it is removed."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from nbsessions.errors import StoreUnavailable
from nbsessions.models import Changes
from nbsessions.stores.sqlite import database
from support.store_processes import OtherProcess, close_store, insert, list_sessions, open_store
from support.stores import SQLITE_KINDS, Connections, Stores, ids, recover, revision_of, rows
from support.values import make_id, make_owner, make_session, make_start

both = pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True)
rollback = pytest.mark.parametrize("stores", ["sqlite-rollback"], indirect=True)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def rowids(path: Path) -> list[str]:
    return [row[0] for row in rows(path, "SELECT session_id FROM nbsessions_session ORDER BY seq")]


# Privacy


@both
@pytest.mark.gen_test
async def test_every_file_is_private(stores: Stores) -> None:
    before = os.umask(0)
    try:
        store = await stores.open()
        await store.insert(make_session())
        await store.list_sessions()
        made = list(stores.path.parent.iterdir())
        assert len(made) >= 4
        assert {path.name: mode(path) for path in made} == {path.name: 0o600 for path in made}
    finally:
        os.umask(before)


@pytest.mark.gen_test
async def test_a_file_system_that_shows_other_owners_is_no_obstacle(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.path = tmp_path / "data" / "nbsessions" / "sessions.db"
    (await stores.open(private_folder=True)).close()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    store = await stores.open(private_folder=True)
    await store.insert(make_session())


@pytest.mark.gen_test
async def test_our_own_folder_is_made_and_kept_private(stores: Stores, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "nbsessions"
    stores.path = folder / "sessions.db"
    (await stores.open(private_folder=True)).close()
    assert mode(folder) == 0o700
    folder.chmod(0o755)
    await stores.open(private_folder=True)
    assert mode(folder) == 0o700


@pytest.mark.gen_test
async def test_a_folder_that_is_not_ours_is_left_as_it_is(stores: Stores, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    await stores.open()
    assert mode(tmp_path) == 0o755
    stores.path = tmp_path / "missing" / "sessions.db"
    with pytest.raises(StoreUnavailable):
        await stores.open()
    assert not stores.path.parent.exists()


@pytest.mark.gen_test
async def test_a_path_that_is_a_folder_is_refused(stores: Stores, tmp_path: Path) -> None:
    stores.path = tmp_path / "folder"
    stores.path.mkdir()
    with pytest.raises(StoreUnavailable):
        await stores.open()


@pytest.mark.gen_test
async def test_a_file_that_was_taken_away_is_not_made_by_a_reader(stores: Stores) -> None:
    store = await stores.open()
    for path in stores.path.parent.glob(f"{stores.path.name}*"):
        path.unlink()
    assert list(await store.list_sessions()) == []
    assert not stores.path.exists()
    await store.insert(make_session())
    assert mode(stores.path) == 0o600


# Durability


@pytest.mark.gen_test
async def test_a_local_file_is_in_wal_mode_and_synced_at_each_commit(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    await store.insert(make_session())
    assert connections.writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connections.writer.execute("PRAGMA synchronous").fetchone()[0] == 2


@rollback
@pytest.mark.gen_test
async def test_another_file_has_a_rollback_journal_and_its_folder_is_synced(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    await store.insert(make_session())
    assert connections.writer.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert connections.writer.execute("PRAGMA synchronous").fetchone()[0] == 3


@both
@pytest.mark.gen_test
async def test_only_what_ends_with_a_power_cut_anyway_is_not_synced(
    stores: Stores, connections: Connections
) -> None:
    store = await stores.open()
    session, start = make_session(), make_start("a")
    written = {
        "heartbeat": store.heartbeat(),
        "acquire": store.acquire(start),
        "drop": store.drop_start(start.token),
        "insert": store.insert(session),
        "update": store.update(session.session_id, Changes(name="b"), stop_token=make_id()),
        "end": store.end_sessions([]),
        "delete": store.delete(session.session_id, stop_token="stop"),
        "finish": store.finish_stop("stop"),
    }
    levels = {}
    for verb, write in written.items():
        await write
        levels[verb] = connections.writer.execute("PRAGMA synchronous").fetchone()[0]
    store.close()
    sharing = await stores.open(make_owner("owner-2", shared_scope="gateway:"))
    await sharing.acquire(make_start("b", scope="gateway:"))
    levels["shared"] = connections.writer.execute("PRAGMA synchronous").fetchone()[0]
    synced = {verb for verb, level in levels.items() if level >= 2}
    wanted = {"insert", "update", "end", "delete", "shared"}
    assert synced == (wanted if stores.kind == "sqlite-wal" else set(levels))


@pytest.mark.gen_test
async def test_the_log_of_a_file_does_not_grow_without_end(stores: Stores) -> None:
    store = await stores.open()
    for _ in range(60):
        await asyncio.gather(*(store.insert(make_session(None)) for _ in range(5)))
    log = stores.path.with_name(stores.path.name + "-wal")
    sizes = []
    for _ in range(4):
        for _ in range(database._CHECKPOINT_AFTER):
            await store.heartbeat()
        sizes.append(log.stat().st_size)
    assert sizes[-1] == sizes[1]


# Revisions


@both
@pytest.mark.gen_test
async def test_reads_do_not_raise_the_revision_and_writes_do(stores: Stores) -> None:
    store = await stores.open()
    await store.insert(make_session("a"))
    revision = revision_of(stores.path)
    await store.list_sessions()
    await store.find_session("unknown")
    await store.list_by_document("a")
    await store.find_intent("unknown")
    await store.list_intents()
    await store.count_by_kernel("unknown")
    await store.find_orphans()
    assert revision_of(stores.path) == revision
    await store.heartbeat()
    assert revision_of(stores.path) > revision


@both
@pytest.mark.gen_test
async def test_what_another_process_writes_into_the_scope_is_seen(stores: Stores) -> None:
    store = await stores.open()
    session = await store.insert(make_session())
    rows(stores.path, "UPDATE nbsessions_namespace SET revision = revision + 1")
    rows(stores.path, "UPDATE nbsessions_session SET name = 'changed'")
    found = await store.find_session(session.session_id)
    assert found is not None
    assert found.name == "changed"


# The file is removed while a store has it open


@both
@pytest.mark.gen_test
async def test_sessions_are_written_again_when_the_file_was_deleted(stores: Stores) -> None:
    store = await stores.open()
    kept = [await store.insert(make_session(path)) for path in "ab"]
    for path in stores.path.parent.glob(f"{stores.path.name}*"):
        if not path.name.endswith(("lock", "write")):
            path.unlink()
    assert ids(await store.list_sessions()) == ids(kept)
    added = await store.insert(make_session("c"))
    assert ids(await store.list_sessions()) == ids([*kept, added])
    assert rowids(stores.path) == ids([*kept, added])


@both
@pytest.mark.gen_test
async def test_sessions_are_written_again_when_only_the_main_file_was_deleted(
    stores: Stores,
) -> None:
    store = await stores.open()
    kept = [await store.insert(make_session(path)) for path in "ab"]
    assert len(await store.list_sessions()) == 2
    stores.path.unlink()
    added = await store.insert(make_session("c"))
    assert ids(await store.list_sessions()) == ids([*kept, added])
    assert rowids(stores.path) == ids([*kept, added])
    assert rows(stores.path, "PRAGMA integrity_check") == [("ok",)]


@both
@pytest.mark.gen_test
async def test_sessions_are_written_again_when_the_file_was_replaced(
    stores: Stores, tmp_path: Path
) -> None:
    (await stores.open(make_owner("before"))).close()
    shutil.copy(stores.path, tmp_path / "backup")
    store = await stores.open()
    kept = await store.insert(make_session("a"))
    (tmp_path / "backup").replace(stores.path)
    added = await store.insert(make_session("b"))
    assert ids(await store.list_sessions()) == ids([kept, added])
    assert rowids(stores.path) == ids([kept, added])


@both
@pytest.mark.gen_test
async def test_sessions_come_back_from_a_backup_that_has_them_as_somebody_elses(
    stores: Stores, tmp_path: Path
) -> None:
    earlier = await stores.open(make_owner("earlier"))
    session = await earlier.insert(make_session("a", scope="earlier"))
    earlier.close([session.kernel_id])
    shutil.copy(stores.path, tmp_path / "backup")
    store = await stores.open()
    await recover(store, await store.find_orphans(), [session.session_id])
    assert ids(await store.list_sessions()) == [session.session_id]
    (tmp_path / "backup").replace(stores.path)
    added = await store.insert(make_session("b"))
    assert ids(await store.list_sessions()) == [session.session_id, added.session_id]


@pytest.mark.gen_test
async def test_a_file_that_was_opened_anew_is_still_known_to_be_in_use(
    stores: Stores, connections: Connections, other: OtherProcess
) -> None:
    # SQLite loses the locks of the process when any descriptor of the file is closed. Another
    # process then believes that it is the last user and removes the log that is in use here.
    store = await stores.open()
    first = await store.insert(make_session("a"))
    await store.list_sessions()
    connections.cut_commit = "lost"
    with pytest.raises(Exception, match="not known whether"):
        await store.heartbeat()
    second = await store.insert(make_session("b"))
    other.ask(open_store, stores.path, make_owner("other"))
    other.ask(insert, make_session("c", scope="other"))
    other.ask(close_store)
    third = await store.insert(make_session("d"))
    assert other.ask(list_sessions) is not None
    other.ask(open_store, stores.path, make_owner("reader"))
    kept = rowids(stores.path)
    assert kept == ids([first, second, third])
    log = stores.path.with_name(stores.path.name + "-wal")
    assert log.exists()
