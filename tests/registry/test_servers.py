"""Which servers are alive as seen by other processes, and who may take over dead ones."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbsessions.locks import FileLock
from nbsessions.registry import servers
from nbsessions.registry.servers import Servers, State
from support.store_processes import OtherProcess
from support.surviving import (
    Place,
    ask_for_state,
    ask_until,
    claim_each,
    claim_until,
    fork_sleeper,
    register_server,
)
from support.waiting import wait_until


@pytest.fixture
def folder(place: Place) -> Path:
    """The folder of the servers' lock files."""
    return place.folder / "servers"


@pytest.fixture
def registered(place: Place) -> Iterator[Servers]:
    """A live server in this process."""
    place.servers.register()
    yield place.servers
    place.servers.unregister(kernels_left=False)


# Servers of another user


def test_what_another_user_left_is_neither_judged_nor_claimed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = place.dead_server()
    with monkeypatch.context() as another_user:
        another_user.setattr(os, "geteuid", lambda: -1)
        assert place.servers.state(server_id) is State.SILENT
        with place.servers.claim(server_id) as claimed:
            assert not claimed
    assert place.servers.state(server_id) is State.DEAD


# No locks


def test_without_locks_nobody_is_judged_claimed_or_registered(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: FileLock, **options: object) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    server_id = place.dead_server()
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert place.servers.state(server_id) is State.SILENT
    with place.servers.claim(server_id) as claimed:
        assert not claimed
    with pytest.raises(OSError, match="No locks"):
        place.servers.register()
    assert [path.stem for path in folder.iterdir()] == [server_id]


# Alive or not


def test_a_registered_server_is_alive_for_itself_and_for_others(
    registered: Servers, folder: Path, other: OtherProcess
) -> None:
    assert registered.state(registered.server_id) is State.LIVE
    assert other.ask(ask_for_state, folder, registered.server_id) is State.LIVE
    assert registered.list_ids() == [registered.server_id]


def test_a_server_of_another_process_is_alive_until_that_is_killed(
    place: Place, folder: Path, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, folder)
    assert place.servers.state(server_id) is State.LIVE
    other.kill()
    assert place.servers.state(server_id) is State.DEAD


def test_only_a_server_that_is_alive_certainly_holds_its_lock(
    place: Place, folder: Path, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, folder)
    assert place.servers.holds_lock(server_id)
    assert place.servers.holds_lock(server_id)
    other.kill()
    assert not place.servers.holds_lock(server_id)
    assert not place.servers.holds_lock("another-host's")
    assert place.servers.state(server_id) is State.DEAD


def test_who_asks_whether_a_lock_is_held_does_not_hold_it(place: Place) -> None:
    server_id = place.dead_server()
    assert not place.servers.holds_lock(server_id)
    with place.servers.claim(server_id) as claimed:
        assert claimed
        assert place.servers.holds_lock(server_id)


def test_a_server_that_nobody_has_heard_of_is_silent(place: Place) -> None:
    assert place.servers.state("another-host's") is State.SILENT
    assert place.servers.state(place.servers.server_id) is State.SILENT
    assert place.servers.silent_for("another-host's") == 0


def test_asking_leaves_nothing_behind(place: Place, folder: Path) -> None:
    place.servers.state("another-host's")
    with place.servers.claim("another-host's") as claimed:
        assert not claimed
    assert not folder.exists()
    assert place.servers.list_ids() == []


def test_a_forked_child_does_not_keep_a_server_alive(
    place: Place, folder: Path, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, folder)
    child = other.ask(fork_sleeper)
    try:
        other.kill()
        os.kill(child, 0)  # raises if the process has ended
        assert place.servers.state(server_id) is State.DEAD
    finally:
        os.kill(child, signal.SIGKILL)


def test_lock_files_are_for_their_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "servers"
    server = Servers(folder)
    umask = os.umask(0)
    try:
        server.register()
    finally:
        os.umask(umask)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.stat().st_mode & 0o777 for each in (folder, folder.parent)] == [0o700, 0o700]
    server.unregister(kernels_left=False)


def test_a_server_whose_file_was_removed_can_register_again(
    registered: Servers, folder: Path
) -> None:
    registered.forget(registered.server_id)
    assert Servers(folder).state(registered.server_id) is State.SILENT
    registered.register()
    registered.register()
    assert Servers(folder).state(registered.server_id) is State.LIVE


def test_a_server_that_signs_off_with_kernels_left_is_dead(
    registered: Servers, folder: Path
) -> None:
    registered.unregister(kernels_left=True)
    registered.unregister(kernels_left=True)
    assert Servers(folder).state(registered.server_id) is State.DEAD


def test_a_server_that_signs_off_without_kernels_is_forgotten(
    registered: Servers, folder: Path
) -> None:
    registered.mark_ending()
    registered.unregister(kernels_left=False)
    registered.unregister(kernels_left=False)
    assert list(folder.iterdir()) == []


def test_a_server_that_never_had_kernels_leaves_nothing(place: Place, folder: Path) -> None:
    folder.mkdir()
    place.servers.mark_ending()
    place.servers.unregister(kernels_left=False)
    assert list(folder.iterdir()) == []


# Registering while other processes check the state


def test_whoever_asks_while_a_server_registers_does_not_keep_it_from_its_lock(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process has just found the file and checks whether the server is alive.
    folder.mkdir()
    asking = FileLock(place.lock_file(place.servers.server_id))
    asking.acquire(shared=True)
    acquire = FileLock.acquire

    def stop_asking(lock: FileLock, **options: object) -> bool:
        if acquire(lock):
            return True
        asking.close()
        return acquire(lock, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileLock, "acquire", stop_asking)
    place.servers.register()
    monkeypatch.undo()
    assert Servers(folder).state(place.servers.server_id) is State.LIVE


def test_whoever_forgets_a_server_while_it_registers_does_not_make_it_silent(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process has locked the file first, has found no kernels, and removes the file.
    acquire = FileLock.acquire

    def forget_first(lock: FileLock, **options: object) -> bool:
        monkeypatch.undo()
        Servers(folder).forget(place.servers.server_id)
        return acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", forget_first)
    place.servers.register()
    assert Servers(folder).state(place.servers.server_id) is State.LIVE


def test_a_lock_that_cannot_be_had_is_an_error(
    place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.registry.servers._REGISTER_TIMEOUT", 0.05)
    folder.mkdir()
    held = FileLock(place.lock_file(place.servers.server_id))
    held.acquire()
    with pytest.raises(OSError, match="cannot be locked"):
        place.servers.register()
    held.close()
    assert place.servers.state(place.servers.server_id) is State.DEAD


def test_servers_come_alive_for_certain_while_others_claim_and_forget_what_they_find(
    folder: Path, tmp_path: Path, other: OtherProcess
) -> None:
    begun, stop = tmp_path / "begun", tmp_path / "stop"
    other.tell(claim_until, folder, begun, stop)
    wait_until(begun.exists, "it claims")
    try:
        for _ in range(200):
            server = Servers(folder)
            server.register()
            assert Servers(folder).state(server.server_id) is State.LIVE
            server.unregister(kernels_left=True)
    finally:
        stop.touch()
    other.answer()


# Taking over


def test_a_dead_server_is_claimed_and_a_live_one_is_not(
    place: Place, folder: Path, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, folder)
    with place.servers.claim(server_id) as claimed:
        assert not claimed
    other.kill()
    with place.servers.claim(server_id) as claimed:
        assert claimed


def test_our_own_lock_cannot_be_claimed(registered: Servers) -> None:
    with registered.claim(registered.server_id) as claimed:
        assert not claimed


def test_what_one_has_claimed_another_does_not_get(
    place: Place, folder: Path, tmp_path: Path, other: OtherProcess
) -> None:
    server_id = place.dead_server()
    start = tmp_path / "start"
    start.touch()
    with place.servers.claim(server_id) as claimed:
        assert claimed
        assert other.ask(claim_each, folder, [server_id], start) == []
    assert other.ask(claim_each, folder, [server_id], start) == [server_id]


def test_of_two_that_claim_at_once_one_gets_it(
    place: Place, folder: Path, tmp_path: Path, other: OtherProcess, third: OtherProcess
) -> None:
    server_ids = [place.dead_server() for _ in range(100)]
    start = tmp_path / "start"
    for process in (other, third):
        process.ask(ask_for_state, folder, "nobody")  # wait until the process runs
    for process in (other, third):
        process.tell(claim_each, folder, server_ids, start)
    start.touch()
    assert sorted(other.answer() + third.answer()) == sorted(server_ids)


@contextmanager
def somebody_who_asks(
    other: OtherProcess, folder: Path, server_id: str, tmp_path: Path
) -> Iterator[None]:
    """Let another process check the server's state repeatedly in the body of the ``with``."""
    begun, stop = tmp_path / "begun", tmp_path / "stop"
    other.tell(ask_until, folder, server_id, begun, stop)
    wait_until(begun.exists, "it asks")
    try:
        yield
    finally:
        stop.touch()
    other.answer()


def test_a_claim_is_not_lost_to_somebody_who_just_asks(
    place: Place,
    folder: Path,
    tmp_path: Path,
    other: OtherProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "_CLAIM_TIMEOUT", 60.0)
    server_id = place.dead_server()
    obtained = []
    with somebody_who_asks(other, folder, server_id, tmp_path):
        for _ in range(100):
            with place.servers.claim(server_id) as claimed:
                obtained.append(claimed)
    assert all(obtained)


def test_a_claim_waits_for_somebody_who_just_asks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_CLAIM_TIMEOUT", 60.0)
    server_id = place.dead_server()
    asking = FileLock(place.lock_file(server_id))
    asking.acquire(shared=True)
    acquire = FileLock.acquire

    def stop_asking(lock: FileLock, *, shared: bool = False, timeout: float = 0) -> bool:
        obtained = acquire(lock, shared=shared, timeout=timeout)
        if not obtained:
            asking.close()
        return obtained

    monkeypatch.setattr(FileLock, "acquire", stop_asking)
    with place.servers.claim(server_id) as claimed:
        assert claimed


def test_a_claim_does_not_wait_for_ever_for_somebody_who_asks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.registry.servers._CLAIM_TIMEOUT", 0.05)
    server_id = place.dead_server()
    asking = FileLock(place.lock_file(server_id))
    asking.acquire(shared=True)
    with place.servers.claim(server_id) as claimed:
        assert not claimed
    asking.close()


def test_a_server_that_is_forgotten_just_before_it_is_claimed_is_not_obtained(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = place.dead_server()
    acquire = FileLock.acquire

    def forget_first(lock: FileLock) -> bool:
        place.servers.forget(server_id)
        return acquire(lock)

    monkeypatch.setattr(FileLock, "acquire", forget_first)
    with place.servers.claim(server_id) as claimed:
        assert not claimed


def test_a_server_that_somebody_asks_for_is_no_less_dead(place: Place) -> None:
    server_id = place.dead_server()
    asking = FileLock(place.lock_file(server_id))
    assert asking.acquire(shared=True)
    assert place.servers.state(server_id) is State.DEAD
    asking.close()


def test_two_who_ask_at_once_do_not_take_each_other_for_the_server(
    place: Place, folder: Path, tmp_path: Path, other: OtherProcess
) -> None:
    server_id = place.dead_server()
    with somebody_who_asks(other, folder, server_id, tmp_path):
        states = {place.servers.state(server_id) for _ in range(500)}
    assert states == {State.DEAD}


def test_a_claim_ends_with_its_body_also_by_an_error(place: Place) -> None:
    server_id = place.dead_server()
    with pytest.raises(KeyError), place.servers.claim(server_id):
        raise KeyError
    with place.servers.claim(server_id) as claimed:
        assert claimed


def test_a_forgotten_server_cannot_be_claimed(place: Place) -> None:
    server_id = place.dead_server(ending=True)
    with place.servers.claim(server_id) as claimed:
        assert claimed
        place.servers.forget(server_id)
    place.servers.forget(server_id)
    with place.servers.claim(server_id) as claimed:
        assert not claimed
    assert place.servers.list_ids() == []
    assert not place.servers.was_ending(server_id)


# Information about dead servers


def test_a_server_was_ending_if_it_said_so(place: Place) -> None:
    assert place.servers.was_ending(place.dead_server(ending=True))
    assert not place.servers.was_ending(place.dead_server())


def test_a_note_of_ending_is_no_server(place: Place) -> None:
    server_id = place.dead_server(ending=True)
    assert place.servers.list_ids() == [server_id]


def test_a_server_is_silent_since_it_was_last_alive(registered: Servers, place: Place) -> None:
    file = place.lock_file(registered.server_id)
    os.utime(file, (0, time.time() - 1000))
    assert 1000 <= registered.silent_for(registered.server_id) < 1100
    registered.touch()
    assert registered.silent_for(registered.server_id) < 100


def test_a_server_that_gives_no_sign_of_life_has_the_same_last_one(
    registered: Servers, place: Place
) -> None:
    os.utime(place.lock_file(registered.server_id), (1, 1))
    sign = registered.last_sign(registered.server_id)
    assert sign is not None
    assert place.servers.state(registered.server_id) is State.LIVE
    assert registered.last_sign(registered.server_id) == sign
    registered.touch()
    assert registered.last_sign(registered.server_id) != sign
    assert registered.last_sign("another-host's") is None


def test_looking_at_a_dead_server_does_not_make_it_younger(place: Place) -> None:
    server_id = place.dead_server()
    os.utime(place.lock_file(server_id), (0, time.time() - 1000))
    place.servers.state(server_id)
    with place.servers.claim(server_id):
        assert place.servers.silent_for(server_id) >= 1000


def test_a_clock_that_was_set_back_makes_nobody_younger_than_now(place: Place) -> None:
    server_id = place.dead_server()
    os.utime(place.lock_file(server_id), (0, time.time() + 1000))
    assert place.servers.silent_for(server_id) == 0


def test_touching_before_registering_is_no_error(place: Place) -> None:
    place.servers.touch()
    assert place.servers.list_ids() == []


def test_platforms_without_locks_prove_nobody_dead(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = place.dead_server()
    monkeypatch.setattr("nbsessions.registry.servers.SUPPORTED", False)
    assert place.servers.state(server_id) is State.LIVE
    with place.servers.claim(server_id) as claimed:
        assert not claimed
