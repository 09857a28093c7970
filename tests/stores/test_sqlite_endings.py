"""Why sessions are gone, in a file: across owners, releases, damage and backups."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from nbsessions.errors import StoreUnavailable
from nbsessions.models import EndReason, Session, utcnow
from nbsessions.stores.base import ENDINGS_KEPT_FOR, SessionStore
from nbsessions.stores.sqlite import schema
from nbsessions.stores.sqlite.inspection import examine
from nbsessions.stores.sqlite.schema import MIGRATIONS
from support.repairs import spoil
from support.stores import (
    OTHER_NAMESPACE,
    SQLITE_KINDS,
    Stores,
    ids,
    insert_many,
    recover,
    revision_of,
    rows,
)
from support.values import make_owner, make_session

pytestmark = [pytest.mark.parametrize("stores", SQLITE_KINDS, indirect=True), pytest.mark.gen_test]

OLD = (utcnow() - ENDINGS_KEPT_FOR - timedelta(minutes=1)).isoformat()
BEFORE_ENDINGS = MIGRATIONS[:2]
"""The schema of the releases that knew no endings."""


async def reasons(store: SessionStore, *sessions: Session) -> list[EndReason | None]:
    """Return why each session is gone, or None."""
    endings = await store.find_endings(ids(sessions))
    found = [endings.get(session.session_id) for session in sessions]
    return [None if each is None else each.reason for each in found]


async def ended(store: SessionStore, scope: str, path: str = "a.ipynb") -> Session:
    """Return a session that has ended with its kernel."""
    session = await store.insert(make_session(path, scope=scope))
    await store.end_sessions([session])
    return session


def connect(stores: Stores) -> sqlite3.Connection:
    """Return a connection as a release's own, whose migrations a test may have replaced."""
    connection = sqlite3.connect(stores.path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def recorded(stores: Stores) -> list[str]:
    """Return the ids of the sessions whose endings are in the file."""
    statement = "SELECT session_id FROM nbsessions_ending ORDER BY rowid"
    return [row[0] for row in rows(stores.path, statement)]


def add_ending(stores: Stores, session_id: str, ended: str, reason: str = "died") -> None:
    rows(
        stores.path,
        "INSERT INTO nbsessions_ending VALUES ('namespace', ?, ?, ?)",
        *(session_id, reason, ended),
    )


# Owners


async def test_a_stop_ends_the_sessions_whose_kernels_it_ends(stores: Stores) -> None:
    store = await stores.open(make_owner("first"))
    ends, goes_on = await insert_many(store, 2, "first")
    store.close([goes_on.kernel_id])

    store = await stores.open(make_owner("second"))
    assert await reasons(store, ends, goes_on) == [EndReason.STOPPED, EndReason.ELSEWHERE]

    await recover(store, await store.find_orphans(), [goes_on.session_id])
    assert await reasons(store, ends, goes_on) == [EndReason.STOPPED, None]


@pytest.mark.parametrize("reason", [EndReason.DIED, EndReason.REBOOTED])
async def test_a_recovery_says_why_each_session_ends(stores: Stores, reason: EndReason) -> None:
    store = await stores.open(make_owner("first"))
    sessions = await insert_many(store, 3, "first")
    store.close([each.kernel_id for each in sessions])

    store = await stores.open(make_owner("second"))
    await recover(store, await store.find_orphans(), [sessions[1].session_id], reason)

    assert await reasons(store, *sessions) == [reason, None, reason]


async def test_who_recovers_too_late_has_no_say(stores: Stores) -> None:
    store = await stores.open(make_owner("first"))
    (session,) = await insert_many(store, 1, "first")
    store.close([session.kernel_id])
    stores_ = [await stores.open(make_owner(name)) for name in ("second", "third")]
    orphans = [await store.find_orphans() for store in stores_]

    await recover(stores_[0], orphans[0], [session.session_id])
    await recover(stores_[1], orphans[1])

    assert await reasons(stores_[0], session) == [None]
    assert await reasons(stores_[1], session) == [EndReason.ELSEWHERE]


async def test_a_session_of_another_live_owner_is_elsewhere(stores: Stores) -> None:
    first, second = [await stores.open(make_owner(name)) for name in ("first", "second")]
    (session,) = await insert_many(first, 1, "first")
    assert await reasons(second, session) == [EndReason.ELSEWHERE]
    await first.end_sessions([session])
    assert await reasons(second, session) == [EndReason.ENDED]


async def test_a_session_that_another_owner_has_taken_over_is_elsewhere(stores: Stores) -> None:
    first, second = [await stores.open(make_owner(name)) for name in ("first", "second")]
    (session,) = await insert_many(first, 1, "first")
    orphans = await second.find_orphans([session.kernel_id])
    await recover(second, orphans, [session.session_id])
    assert await reasons(first, session) == [EndReason.ELSEWHERE]
    assert await reasons(second, session) == [None]


async def test_nothing_is_told_of_another_namespace(stores: Stores) -> None:
    store = await stores.open(make_owner("first"))
    gone = await ended(store, "first")
    (there,) = await insert_many(store, 1, "first")
    other = await stores.open(make_owner("other"), OTHER_NAMESPACE)
    assert await reasons(other, gone, there) == [None, None]


async def test_a_session_that_is_there_is_not_gone_whatever_is_recorded(stores: Stores) -> None:
    """An older release inserts sessions, but does not know that it has to forget endings."""
    first, second = [await stores.open(make_owner(name)) for name in ("first", "second")]
    (session,) = await insert_many(first, 1, "first")
    add_ending(stores, session.session_id, utcnow().isoformat())
    assert await reasons(first, session) == [None]
    assert await reasons(second, session) == [EndReason.ELSEWHERE]


# Reading and forgetting


async def test_reading_writes_nothing(stores: Stores) -> None:
    store = await stores.open()
    session = await ended(store, "owner-1")
    add_ending(stores, "old", OLD)
    before = revision_of(stores.path)
    assert await reasons(store, session) == [EndReason.ENDED]
    assert await store.find_endings(["old"]) == {}
    assert revision_of(stores.path) == before
    assert recorded(stores) == [session.session_id, "old"]


async def test_old_endings_are_forgotten_when_another_session_ends(stores: Stores) -> None:
    store = await stores.open()
    add_ending(stores, "old", OLD)
    session = await store.insert(make_session())
    assert recorded(stores) == ["old"]
    await store.end_sessions([session])
    assert recorded(stores) == [session.session_id]


async def test_old_endings_are_forgotten_although_no_session_ends(stores: Stores) -> None:
    store = await stores.open()
    add_ending(stores, "old", OLD)
    add_ending(stores, "recent", utcnow().isoformat())
    await store.heartbeat()
    assert recorded(stores) == ["recent"]


async def test_old_endings_of_a_namespace_without_servers_are_forgotten(stores: Stores) -> None:
    (await stores.open()).close()
    add_ending(stores, "old", OLD)
    add_ending(stores, "recent", utcnow().isoformat())
    await stores.open(make_owner("other"), OTHER_NAMESPACE)
    assert recorded(stores) == ["recent"]


async def test_no_write_forgets_too_many_at_once(stores: Stores) -> None:
    store = await stores.open()
    with closing(sqlite3.connect(stores.path)) as connection, connection:
        connection.executemany(
            "INSERT INTO nbsessions_ending VALUES ('namespace', ?, 'died', ?)",
            [(str(number), OLD) for number in range(1500)],
        )
    await store.heartbeat()
    assert len(recorded(stores)) == 500
    await store.heartbeat()
    assert recorded(stores) == []


async def test_endings_outlive_the_record_of_their_namespace(stores: Stores) -> None:
    store = await stores.open(make_owner("first"))
    session = await ended(store, "first")
    store.close()
    (await stores.open(make_owner("other"), OTHER_NAMESPACE)).close()
    assert revision_of(stores.path) == 0
    store = await stores.open(make_owner("second"))
    assert await reasons(store, session) == [EndReason.ENDED]


# Releases


async def test_a_file_of_an_older_release_is_migrated(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, closing(connect(stores)) as connection:
        patch.setattr(schema, "MIGRATIONS", BEFORE_ENDINGS)
        schema.migrate(connection)
    assert ("nbsessions_ending",) not in rows(stores.path, "SELECT name FROM sqlite_master")
    assert examine(stores.path).unreadable == ()

    store = await stores.open(make_owner("newer"))
    session = await ended(store, "newer")

    assert await reasons(store, session) == [EndReason.ENDED]
    assert dict(rows(stores.path, "SELECT key, value FROM nbsessions_meta")) == {
        "schema": len(MIGRATIONS),
        "oldest_compatible": 1,
    }


async def test_a_file_with_endings_can_be_used_by_an_older_release(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await stores.open(make_owner("newer"))
    session = await ended(store, "newer")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", BEFORE_ENDINGS)
        with closing(connect(stores)) as connection:
            assert schema.read_version(connection) == len(MIGRATIONS)
        older = await stores.open(make_owner("older"))
        await older.insert(make_session("b", scope="older"))
        older.close()
    assert await reasons(store, session) == [EndReason.ENDED]


# Bad rows, damage and backups

SPOILED = {
    "a reason of a newer release": "reason = 'migrated'",
    "a reason that is not text": "reason = X'00'",
    "a time that cannot be read": "ended = 'yesterday'",
    "a time without a zone": "ended = '2999-01-01T00:00:00'",
    "a time beyond all times": "ended = '9999-12-31T23:59:59-14:00'",
    "a time that is a number": "ended = 5",
    "a time that is not UTF-8": "ended = CAST(X'FF41' AS TEXT)",
}


@pytest.mark.parametrize("change", SPOILED.values(), ids=SPOILED.keys())
async def test_an_ending_that_cannot_be_read_is_left_out_and_kept_and_named_once(
    stores: Stores, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await stores.open()
    bad, good = await ended(store, "owner-1"), await ended(store, "owner-1")
    rows(
        stores.path, f"UPDATE nbsessions_ending SET {change} WHERE session_id = ?", bad.session_id
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert await reasons(store, bad, good) == [None, EndReason.ENDED]
    await store.heartbeat()

    assert recorded(stores) == ids([bad, good])
    (warning,) = caplog.messages
    assert "nbsessions_ending" in warning
    assert bad.session_id in warning
    (problem,) = examine(stores.path).unreadable
    assert problem in warning


async def test_an_ending_that_cannot_be_read_is_replaced_by_the_next_one(stores: Stores) -> None:
    store = await stores.open()
    session = await store.insert(make_session())
    add_ending(stores, session.session_id, "yesterday", "migrated")
    await store.end_sessions([session])
    assert await reasons(store, session) == [EndReason.ENDED]


@pytest.mark.parametrize("damage", ["index", "table"])
async def test_endings_are_saved_from_a_damaged_file(stores: Stores, damage: str) -> None:
    store = await stores.open(make_owner("before"))
    session = await ended(store, "before")
    store.close()
    spoil(stores.path, damage)
    store = await stores.open(make_owner("after"))
    assert list(stores.path.parent.glob("*.damaged-*"))
    assert await reasons(store, session) == [EndReason.ENDED]


async def test_with_the_file_the_reasons_are_lost(stores: Stores) -> None:
    store = await stores.open()
    gone = await ended(store, "owner-1")
    there = await store.insert(make_session())
    for path in stores.path.parent.glob("sessions.db*"):
        path.unlink()
    await store.ensure_intact()
    assert list(await store.list_sessions()) == [there]
    assert await reasons(store, gone, there) == [None, None]


async def test_a_backup_with_an_ending_does_not_end_a_session_that_is_there(
    stores: Stores,
) -> None:
    store = await stores.open()
    session = await ended(store, "owner-1")
    backup = stores.path.with_name("backup")
    with closing(sqlite3.connect(stores.path)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    again = await store.insert(make_session(session_id=session.session_id))
    with closing(sqlite3.connect(backup)) as copy, closing(sqlite3.connect(stores.path)) as target:
        copy.backup(target)
    assert recorded(stores) == [session.session_id]

    await store.ensure_intact()

    assert ids(await store.list_sessions()) == [again.session_id]
    assert recorded(stores) == []


async def test_a_backup_of_an_older_release_is_migrated_under_a_running_server(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, closing(connect(stores)) as connection:
        patch.setattr(schema, "MIGRATIONS", BEFORE_ENDINGS)
        schema.migrate(connection)
    backup = stores.path.with_name("backup")
    backup.write_bytes(stores.path.read_bytes())
    store = await stores.open()
    there = await store.insert(make_session())
    with closing(sqlite3.connect(backup)) as copy, closing(sqlite3.connect(stores.path)) as target:
        copy.backup(target)

    session = await ended(store, "owner-1")

    assert await reasons(store, session, there) == [EndReason.ENDED, None]
    assert ids(await store.list_sessions()) == [there.session_id]


async def test_what_cannot_be_read_raises(stores: Stores) -> None:
    store = await stores.open()
    session = await ended(store, "owner-1")
    rows(stores.path, "ALTER TABLE nbsessions_ending RENAME TO away")
    with pytest.raises(StoreUnavailable):
        await reasons(store, session)
    rows(stores.path, "ALTER TABLE away RENAME TO nbsessions_ending")
    assert await reasons(store, session) == [EndReason.ENDED]
    store.close()
    with pytest.raises(StoreUnavailable):
        await reasons(store, session)
