"""The lock files of a store: writers do not starve, and replaced locks are taken again."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from nbsessions.errors import StoreUnavailable, StoreUnsupported, StoreUnusable
from nbsessions.locks import FileLock
from nbsessions.models import ABANDONED_AFTER, utcnow
from nbsessions.stores.base import SessionStore
from nbsessions.stores.sqlite.locks import StoreLocks
from support.store_processes import (
    NOBODY,
    OtherProcess,
    become_nobody,
    open_store,
    other_process,
    write_without_a_pause,
)
from support.stores import NAMESPACE, OTHER_NAMESPACE, Stores, rows
from support.values import make_owner, make_session
from support.waiting import wait_until

pytestmark = pytest.mark.parametrize("stores", ["sqlite-wal"], indirect=True)


def fail_to_lock(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


def lock_files(stores: Stores) -> set[str]:
    return {path.name for path in stores.path.parent.glob(f"{stores.path.name}.*")}


def test_nobody_starves_beside_those_who_write_without_a_pause(
    stores: Stores, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    with other_process() as one, other_process() as another:
        begun = [tmp_path / "one", tmp_path / "another"]
        for busy, file in zip((one, another), begun, strict=True):
            busy.tell(write_without_a_pause, stores.path, file, stop)
        wait_until(lambda: all(file.exists() for file in begun), "both write")
        # If the processes take turns, each of the three waits for two others.
        patient = StoreLocks(stores.path, timeout=5.0)
        patient.open()
        for _ in range(10):
            with patient.for_writing():
                pass
        patient.close()
        stop.touch()
        one.answer()
        another.answer()


@pytest.mark.gen_test
async def test_an_owner_whose_locks_were_removed_is_still_live(
    stores: Stores, other: OtherProcess
) -> None:
    store = await stores.open()
    await store.insert(make_session())
    for name in lock_files(stores):
        (stores.path.parent / name).unlink()
    await store.ensure_intact()
    before = lock_files(stores)
    assert len(before) == 4
    other.ask(open_store, stores.path, make_owner("judge"))
    owners = rows(stores.path, "SELECT owner FROM nbsessions_owner ORDER BY owner")
    assert owners == [("judge",), ("owner-1",)]
    judge = await stores.open(make_owner("another judge"))
    assert (await judge.find_orphans()).owners == {}


@pytest.mark.gen_test
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
async def test_a_place_without_file_locks_is_not_supported_and_says_what_helps(
    stores: Stores, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_lock(monkeypatch, code)
    with pytest.raises(StoreUnsupported, match=r"database_filepath.*local"):
        await stores.open()
    with pytest.raises(StoreUnsupported):
        await stores.open()


@pytest.mark.gen_test
async def test_a_lock_that_fails_for_now_is_tried_again(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_to_lock(patch, errno.EIO)
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await stores.open()
    await stores.open()


@pytest.mark.gen_test
async def test_a_folder_that_cannot_be_listed_is_no_obstacle(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, pattern: str) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "glob", refuse)
    store = await stores.open()
    assert await store.list_sessions() == []


FORBIDDEN: dict[str, tuple[Callable[[Path], Path], int]] = {
    "the file": (lambda path: path, 0),
    "the log": (lambda path: path.with_name("sessions.db-wal"), 0),
    "a lock": (lambda path: path.with_name("sessions.db.write"), 0),
    "the folder": (lambda path: path.parent, 0o555),
}
"""What belongs to another user, and its mode."""


@pytest.mark.gen_test
@pytest.mark.parametrize("what", FORBIDDEN)
async def test_files_of_another_user_are_unusable_and_the_error_says_what_helps(
    stores: Stores, other: OtherProcess, what: str
) -> None:
    (await stores.open()).close()
    find, mode = FORBIDDEN[what]
    forbidden = find(stores.path)
    forbidden.touch()
    if os.geteuid() == 0:
        for path in {stores.path.parent, *stores.path.parent.iterdir()} - {forbidden}:
            os.chown(path, NOBODY, -1)
    forbidden.chmod(mode)
    for folder in stores.path.parent.parents:
        if folder.stat().st_uid == os.geteuid() and folder.name.startswith("pytest-"):
            folder.chmod(0o755)
    other.ask(become_nobody)
    with pytest.raises(StoreUnusable, match="chown"):
        other.ask(open_store, stores.path, make_owner("nobody"))


# Removal of old rows and lock files


async def abandon(stores: Stores, owner_id: str, namespace: str, ago: timedelta) -> None:
    """Add a session of an owner on another host, whose last heartbeat was this long ago."""
    owner = make_owner(owner_id, host="another host", boot_id="another boot")
    store = await stores.open(owner, namespace=namespace)
    session = await store.insert(make_session(scope=owner_id))
    store.close([session.kernel_id])
    moment = (utcnow() - ago).isoformat(timespec="microseconds")
    rows(
        stores.path,
        "UPDATE nbsessions_owner SET heartbeat = ?, stopped = NULL WHERE owner = ?",
        moment,
        owner_id,
    )


async def owners_after_a_start(stores: Stores) -> set[str]:
    store: SessionStore = await stores.open(make_owner("next"))
    store.close([session.kernel_id for session in await store.list_sessions()])
    found = {row[0] for row in rows(stores.path, "SELECT scope FROM nbsessions_session")}
    assert found == {row[0] for row in rows(stores.path, "SELECT owner FROM nbsessions_owner")}
    return found


@pytest.mark.gen_test
async def test_rows_of_folders_that_nobody_opens_any_more_go_in_time(stores: Stores) -> None:
    hour = timedelta(hours=1)
    for namespace, prefix in ((NAMESPACE, "here"), (OTHER_NAMESPACE, "there")):
        await abandon(stores, f"{prefix} recent", namespace, ABANDONED_AFTER - hour)
        await abandon(stores, f"{prefix} old", namespace, ABANDONED_AFTER + hour)
    await abandon(stores, "alone", "a third namespace", ABANDONED_AFTER + hour)
    assert await owners_after_a_start(stores) == {"here recent", "there recent"}
    assert set(rows(stores.path, "SELECT namespace FROM nbsessions_namespace")) == {
        (NAMESPACE,),
        (OTHER_NAMESPACE,),
    }


@pytest.mark.gen_test
async def test_an_owner_whose_process_lives_is_never_forgotten(
    stores: Stores, other: OtherProcess
) -> None:
    other.ask(open_store, stores.path, make_owner("theirs"), OTHER_NAMESPACE)
    moment = (utcnow() - 2 * ABANDONED_AFTER).isoformat(timespec="microseconds")
    rows(stores.path, "UPDATE nbsessions_owner SET heartbeat = ?", moment)
    store = await stores.open(make_owner("next"))
    store.close()
    assert rows(stores.path, "SELECT owner FROM nbsessions_owner") == [("theirs",)]


@pytest.mark.gen_test
async def test_rows_without_an_owner_go_in_time(stores: Stores) -> None:
    await abandon(stores, "recent", NAMESPACE, timedelta(0))
    await abandon(stores, "old", NAMESPACE, timedelta(0))
    moment = (utcnow() - ABANDONED_AFTER - timedelta(hours=1)).isoformat(timespec="microseconds")
    rows(
        stores.path,
        "UPDATE nbsessions_session SET last_activity = ? WHERE scope = 'old'",
        moment,
    )
    rows(stores.path, "DELETE FROM nbsessions_owner")
    (await stores.open(make_owner("next"))).close()
    assert rows(stores.path, "SELECT scope FROM nbsessions_session") == [("recent",)]


@pytest.mark.gen_test
async def test_lock_files_that_nobody_remembers_go_in_time(stores: Stores) -> None:
    (await stores.open()).close()
    long_ago = time.time() - ABANDONED_AFTER.total_seconds() - 3600
    held = FileLock(stores.path.with_name("sessions.db.owner-held"))
    assert held.acquire()
    for name in ("old", "recent", "held"):
        path = stores.path.with_name(f"sessions.db.owner-{name}")
        path.touch()
        if name != "recent":
            os.utime(path, (long_ago, long_ago))
    (await stores.open()).close()
    left = {name for name in lock_files(stores) if "owner" in name}
    assert left == {"sessions.db.owner-recent", "sessions.db.owner-held"}
    held.close()
