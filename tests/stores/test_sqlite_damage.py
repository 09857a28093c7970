"""Damaged files: repaired if no other server has them open, left alone otherwise."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nbsessions.errors import StoreDamaged
from nbsessions.models import Session
from support.repairs import spoil
from support.store_processes import OtherProcess, close_store, insert, list_sessions, open_store
from support.stores import LOG, SQLITE_KINDS, Stores, ids, insert_many, rows
from support.values import make_owner, make_session

pytestmark = [
    pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True),
    pytest.mark.parametrize("damage", ["header", "index", "tail"]),
]


async def fill(stores: Stores) -> list[Session]:
    store = await stores.open(make_owner("before"))
    sessions = await insert_many(store, 200, "before")
    store.close([session.kernel_id for session in sessions])
    return sessions


def moved_aside(stores: Stores) -> list[Path]:
    return sorted(stores.path.parent.glob(f"{stores.path.name}.damaged-*"))


@pytest.mark.gen_test
async def test_a_damaged_file_is_moved_aside_and_what_can_be_read_is_kept(
    stores: Stores, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = await fill(stores)
    spoil(stores.path, damage)
    spoiled = stores.path.read_bytes()
    with caplog.at_level(logging.ERROR):
        store = await stores.open()
    [error] = [record for record in caplog.records if record.name == LOG.name]
    assert str(stores.path) in error.getMessage()
    assert spoiled in [path.read_bytes() for path in moved_aside(stores)]
    assert rows(stores.path, "PRAGMA integrity_check") == [("ok",)]
    salvaged = ids((await store.find_orphans()).sessions)
    kept = rows(stores.path, "SELECT COUNT(*) FROM nbsessions_session")[0][0]
    assert f"the {kept} sessions" in error.getMessage()
    assert set(salvaged) <= set(ids(sessions))
    if damage == "index":
        assert salvaged == ids(sessions)
    added = await store.insert(make_session("new"))
    assert list(await store.list_sessions()) == [added]
    assert stores.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.gen_test
async def test_a_damaged_file_that_another_server_has_open_is_left_alone(
    stores: Stores, damage: str, other: OtherProcess
) -> None:
    await fill(stores)
    wal = stores.kind == "sqlite-wal"
    other.ask(open_store, stores.path, make_owner("live"), "namespace", wal)
    other.ask(insert, make_session("live", scope="live"))
    spoil(stores.path, damage)
    spoiled = stores.path.read_bytes()
    with pytest.raises(StoreDamaged, match="another server has it open"):
        await stores.open(busy_timeout=0.2)
    assert moved_aside(stores) == []
    assert stores.path.read_bytes() == spoiled
    assert len(other.ask(list_sessions)) == 1
    other.tell(close_store)
    other.answer()
    assert await stores.open(make_owner("after")) is not None
    assert len(moved_aside(stores)) >= 1


@pytest.mark.gen_test
async def test_a_file_that_is_damaged_while_only_we_have_it_open_is_mended(
    stores: Stores, damage: str
) -> None:
    store = await stores.open()
    kept = await insert_many(store, 100)
    rows(stores.path, "PRAGMA wal_checkpoint(TRUNCATE)")
    spoil(stores.path, damage)
    # The write that detects the damage may fail. Acknowledged writes must not be lost.
    written = list(kept)
    for number in range(3):
        try:
            written.append(await store.insert(make_session(f"new-{number}.ipynb")))
        except StoreDamaged:
            continue
    assert len(written) >= len(kept) + 1
    assert ids(await store.list_sessions()) == ids(written)
    store.close([session.kernel_id for session in written])
    after = await stores.open(make_owner("after"))
    assert ids((await after.find_orphans()).sessions) == ids(written)
