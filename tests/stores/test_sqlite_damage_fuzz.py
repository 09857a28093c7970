"""Files damaged in many ways: the next server works and logs what happened."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nbsessions.models import Session
from nbsessions.stores.sqlite import SQLiteSessionStore
from support.stores import LOG, NAMESPACE, Stores, ids, insert_many, rows
from support.values import make_id, make_owner, make_session

PAGE = 4096
Damage = Callable[[random.Random, bytearray, int], None]


def zeroes(dice: random.Random, data: bytearray, start: int) -> None:
    data[start : start + PAGE] = bytes(PAGE)


def noise(dice: random.Random, data: bytearray, start: int) -> None:
    data[start : start + PAGE] = dice.randbytes(PAGE)


def half(dice: random.Random, data: bytearray, start: int) -> None:
    data[start + PAGE // 2 : start + PAGE] = bytes(PAGE // 2)


def head(dice: random.Random, data: bytearray, start: int) -> None:
    data[start : start + 12] = dice.randbytes(12)


def no_cells(dice: random.Random, data: bytearray, start: int) -> None:
    at = start + (100 if start == 0 else 0)
    data[at + 3 : at + 5] = bytes(2)


def another_page(dice: random.Random, data: bytearray, start: int) -> None:
    other = dice.randrange(len(data) // PAGE) * PAGE
    data[start : start + PAGE] = data[other : other + PAGE]


def end(dice: random.Random, data: bytearray, start: int) -> None:
    del data[start:]


DAMAGES: list[Damage] = [zeroes, noise, half, head, no_cells, another_page, end]


async def fill(path: Path) -> list[Session]:
    """Create a file that looks used, with sessions and with free pages between them."""
    stores = Stores("sqlite-wal", path)
    store = await stores.open(make_owner("before"))
    sessions = await insert_many(store, 120, "before")
    for session in sessions[:20]:
        await store.delete(session.session_id, stop_token=make_id())
    store.close([session.kernel_id for session in sessions])
    rows(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    return sessions[20:]


@pytest.mark.gen_test(timeout=120)
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_repaired_at_once_and_nothing_is_lost_in_silence(
    tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    dice = random.Random(damage.__name__)
    whole = tmp_path / "sessions.db"
    sessions = await fill(whole)
    data = whole.read_bytes()
    for start in range(0, len(data), PAGE):
        spoiled = bytearray(data)
        damage(dice, spoiled, start)
        path = tmp_path / str(start) / "sessions.db"
        path.parent.mkdir()
        path.write_bytes(spoiled)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            store = SQLiteSessionStore(path, NAMESPACE, log=LOG)
            await store.open(make_owner("after"))
            found = set(ids((await store.find_orphans()).sessions))
            added = await store.insert(make_session("new.ipynb", scope="after"))
            assert list(await store.list_sessions()) == [added]
            store.close([added.kernel_id])
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        assert found <= set(ids(sessions))
        told = "was damaged" in caplog.text or "is an empty file" in caplog.text
        assert told or found == set(ids(sessions)), (damage.__name__, start)
