"""Advisory locks: how they are acquired, held and released."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbsessions.locks import FileLock
from support.store_processes import OtherProcess, fork_sleeper, let_go, lock_file
from support.waiting import wait_until


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[FileLock]:
    opened = FileLock(tmp_path / "lock")
    yield opened
    opened.close()


def test_a_lock_file_is_private(lock: FileLock) -> None:
    assert lock.path.stat().st_mode & 0o777 == 0o600


def test_a_lock_file_is_not_inherited_by_other_programs(lock: FileLock) -> None:
    assert lock._descriptor is not None
    assert not os.get_inheritable(lock._descriptor)


def test_a_lock_that_another_process_holds_is_not_obtained(
    lock: FileLock, other: OtherProcess
) -> None:
    assert other.ask(lock_file, lock.path, False)
    assert not lock.acquire()
    assert not lock.acquire(shared=True, timeout=0.05)


def test_a_shared_lock_is_shared_and_keeps_others_from_an_exclusive_one(
    lock: FileLock, other: OtherProcess
) -> None:
    assert other.ask(lock_file, lock.path, True)
    assert lock.acquire(shared=True)
    assert not lock.acquire()


def test_a_lock_of_a_killed_process_is_free(lock: FileLock, other: OtherProcess) -> None:
    other.ask(lock_file, lock.path, False)
    other.kill()
    assert lock.acquire()


def test_a_lock_is_waited_for(lock: FileLock, other: OtherProcess) -> None:
    other.ask(lock_file, lock.path, False)
    outcome: list[bool] = []
    waiter = threading.Thread(target=lambda: outcome.append(lock.acquire(timeout=20)))
    waiter.start()
    other.ask(let_go)
    waiter.join()
    assert outcome == [True]


def test_a_released_lock_can_be_taken_again(lock: FileLock, other: OtherProcess) -> None:
    assert lock.acquire()
    assert not other.ask(lock_file, lock.path, False)
    lock.release()
    assert other.ask(lock_file, lock.path, False)
    other.ask(let_go)
    assert lock.acquire()


def test_a_closed_lock_is_free_and_cannot_be_taken(lock: FileLock, other: OtherProcess) -> None:
    lock.acquire()
    lock.close()
    lock.close()
    lock.release()
    assert not lock.acquire()
    assert not lock.is_current()
    assert other.ask(lock_file, lock.path, False)


def test_a_lock_file_is_current_until_its_path_leads_elsewhere(lock: FileLock) -> None:
    assert lock.is_current()
    lock.path.unlink()
    assert not lock.is_current()
    lock.path.touch()
    assert not lock.is_current()


def test_a_judge_does_not_make_the_lock_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileLock(tmp_path / "missing", flags=os.O_RDWR)
    assert not (tmp_path / "missing").exists()


def test_a_forked_child_does_not_keep_the_lock(lock: FileLock, other: OtherProcess) -> None:
    child = other.ask(fork_sleeper, lock.path)
    try:
        assert not lock.acquire()
        other.kill()
        assert wait_until(lock.acquire, "the lock is free while the child lives")
        os.kill(child, 0)  # raises OSError if the child is dead
    finally:
        os.kill(child, signal.SIGKILL)
