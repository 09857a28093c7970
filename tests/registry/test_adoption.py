"""Which kernels of dead servers a server takes over, which it ends, and which it leaves alone."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from nbsessions.locks import FileLock
from nbsessions.registry import adoption as adoption_module
from nbsessions.registry.adoption import Adoption
from nbsessions.registry.ending import KernelEnder
from nbsessions.registry.process import KERNEL_ID_VARIABLE, ProcessIdentity
from nbsessions.registry.records import KernelRecord, KernelRecords
from nbsessions.registry.servers import Servers
from support.store_processes import OtherProcess
from support.surviving import (
    ROOT,
    Place,
    Processes,
    adopt_all,
    ask_for_state,
    register_server,
    runs,
    show_a_sign_of_life,
)
from support.waiting import wait_until

_DAY = 24 * 3600
_NOT_HERE = {"boot_id": "another boot", "host": "another-host"}


class Adopted(list[KernelRecord]):
    """The records that a server adopts. The server becomes their owner."""

    def __init__(self, place: Place, error: Exception | None = None) -> None:
        super().__init__()
        self._place = place
        self._error = error

    def __call__(self, record: KernelRecord) -> None:
        self.append(record)
        if self._error is not None:
            raise self._error
        self._place.records.write(replace(record, server_id=self._place.servers.server_id))


def adopted(place: Place, **options: Any) -> list[KernelRecord]:
    """Start a server, and return the records that it adopts."""
    recorded = Adopted(place)
    place.adoption(**options).run(recorded)
    return recorded


def age(place: Place, server_id: str, seconds: float) -> None:
    """Make the server appear silent for this number of seconds."""
    long_ago = time.time() - seconds
    os.utime(place.lock_file(server_id), (long_ago, long_ago))


def is_forgotten(place: Place, record: KernelRecord) -> bool:
    files = (place.record_file(record.kernel_id), Path(record.connection_file))
    left = [file for file in files if file.exists()]
    assert len(left) in (0, len(files)), left
    return not left


def wait_for_end(place: Place, record: KernelRecord, identity: ProcessIdentity) -> None:
    wait_until(lambda: not runs(identity), "the kernel has ended")
    wait_until(lambda: not place.record_file(record.kernel_id).exists(), "its record is gone")
    assert is_forgotten(place, record)


# Adopting


def test_the_kernel_of_a_dead_server_of_the_same_root_is_adopted(
    place: Place, spawn: Processes
) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    record = place.record(server_id, identity)
    assert adopted(place) == [record]
    assert runs(identity)
    assert Path(record.connection_file).exists()
    assert place.servers.list_ids() == []


def test_the_kernel_of_a_killed_server_is_adopted(
    place: Place, spawn: Processes, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, place.folder / "servers")
    record = place.record(server_id, spawn.stranger())
    other.kill()
    assert adopted(place) == [record]


def test_all_kernels_of_several_dead_servers_are_adopted(place: Place, spawn: Processes) -> None:
    records = [place.record(place.dead_server(), spawn.stranger()) for _ in range(3)]
    records.append(place.record(records[0].server_id, spawn.stranger()))
    by_id = {record.kernel_id: record for record in adopted(place)}
    assert by_id == {record.kernel_id: record for record in records}


def test_the_kernels_of_a_live_server_are_untouched(
    place: Place, spawn: Processes, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, place.folder / "servers")
    ours, another = spawn.stranger(), spawn.stranger()
    records = [
        place.record(server_id, ours),
        place.record(server_id, another, root_dir="/another"),
        place.record(server_id, None),
        place.record(server_id, replace(ours, started=1.0)),
    ]
    age(place, server_id, 2 * _DAY)
    assert adopted(place, orphan_timeout=0.0) == []
    assert runs(ours)
    assert runs(another)
    assert not any(is_forgotten(place, record) for record in records)
    assert place.servers.list_ids() == [server_id]


def test_our_own_kernels_are_untouched(place: Place, spawn: Processes) -> None:
    place.servers.register()
    record = place.record(place.servers.server_id, spawn.stranger())
    assert adopted(place) == []
    assert not is_forgotten(place, record)


def test_the_kernels_of_a_silent_server_are_untouched(place: Place, spawn: Processes) -> None:
    identity = spawn.stranger()
    record = place.record("a server without a lock file", identity)
    assert adopted(place, orphan_timeout=0.0) == []
    assert runs(identity)
    assert not is_forgotten(place, record)


def test_without_records_dead_servers_are_forgotten_and_live_ones_are_not(
    place: Place, other: OtherProcess
) -> None:
    place.dead_server()
    place.dead_server(ending=True)
    alive = other.ask(register_server, place.folder / "servers")
    assert adopted(place) == []
    assert place.servers.list_ids() == [alive]
    assert len(list((place.folder / "servers").iterdir())) == 1


def test_what_a_dead_server_was_writing_is_removed(place: Place) -> None:
    folder = place.log_file("a-kernel").parent
    (folder / f".{place.dead_server()}-abc.draft").write_text("half of a rec")
    (folder / ".ours-abc.draft").write_text("half of a rec")
    assert adopted(place) == []
    assert [path.name for path in folder.iterdir()] == [".ours-abc.draft"]


def test_nothing_at_all_is_nothing_to_do(place: Place) -> None:
    assert adopted(place) == []


# Adoptions that fail


def test_a_kernel_that_is_gone_when_it_is_adopted_is_forgotten(
    place: Place, spawn: Processes
) -> None:
    record = place.record(place.dead_server(), spawn.stranger())
    place.adoption().run(Adopted(place, ProcessLookupError()))
    assert is_forgotten(place, record)
    assert place.servers.list_ids() == []


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError("odd"), KeyError("odd")])
def test_a_kernel_that_cannot_be_adopted_is_left_to_the_next_server(
    place: Place, spawn: Processes, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    records = [place.record(place.dead_server(), spawn.stranger()) for _ in range(2)]
    failed = Adopted(place, error)
    place.adoption().run(failed)
    assert len(failed) == 2
    assert [entry.levelno for entry in caplog.records] == 2 * [logging.WARNING]
    assert all(record.kernel_id in caplog.text for record in records)
    assert not any(is_forgotten(place, record) for record in records)
    assert len(adopted(place)) == 2


def test_an_adoption_that_is_cut_short_leaves_the_rest_to_the_next_server(
    place: Place, spawn: Processes
) -> None:
    server_id = place.dead_server()
    records = [place.record(server_id, spawn.stranger()) for _ in range(2)]

    def interrupt(record: KernelRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.adoption().run(interrupt)
    assert {each.kernel_id for each in adopted(place)} == {each.kernel_id for each in records}


@pytest.mark.parametrize("broken", ["is_running", "find_kernel", "forget_kernel"])
def test_a_kernel_that_cannot_be_looked_at_keeps_no_server_from_starting(
    place: Place,
    spawn: Processes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("odd")

    gone = spawn.stranger()
    server_id = place.dead_server()
    records = [
        place.record(server_id, None),
        place.record(server_id, replace(gone, started=1.0)),
    ]
    monkeypatch.setattr(adoption_module, broken, fail)
    assert adopted(place) == []
    assert "is left as it is" in caplog.text
    assert any(not is_forgotten(place, record) for record in records)
    assert place.servers.list_ids() == [server_id]


# Kernels that are gone


def test_a_kernel_that_has_ended_is_forgotten(place: Place, spawn: Processes) -> None:
    child = spawn.child("true")
    identity = replace(spawn.stranger(), pid=child.pid)
    child.wait()
    record = place.record(place.dead_server(), identity)
    place.log_file(record.kernel_id).write_text("printed")
    assert adopted(place) == []
    assert is_forgotten(place, record)
    assert not place.log_file(record.kernel_id).exists()
    assert place.servers.list_ids() == []


@pytest.mark.parametrize("ending", [True, False])
@pytest.mark.parametrize("root_dir", [ROOT, "/another"])
def test_a_stranger_that_has_the_process_id_now_is_not_harmed(
    place: Place, spawn: Processes, root_dir: str, ending: bool
) -> None:
    stranger = spawn.stranger()
    server_id = place.dead_server(ending=ending)
    record = place.record(server_id, replace(stranger, started=1.0), root_dir=root_dir)
    assert adopted(place, orphan_timeout=0.0) == []
    assert is_forgotten(place, record)
    assert runs(stranger)


def test_a_kernel_of_an_earlier_boot_is_forgotten(place: Place, spawn: Processes) -> None:
    stranger = spawn.stranger()
    record = place.record(place.dead_server(), replace(stranger, boot_id="another boot"))
    assert adopted(place) == []
    assert is_forgotten(place, record)
    assert runs(stranger)


# Kernels that are ended


def test_the_kernel_of_a_server_that_was_ending_is_ended(place: Place, spawn: Processes) -> None:
    server_id, identity = place.dead_server(ending=True), spawn.stranger()
    record = place.record(server_id, identity)
    assert adopted(place) == []
    wait_for_end(place, record, identity)
    wait_until(lambda: not list((place.folder / "servers").iterdir()), "nothing of it is left")


def test_a_kernel_that_is_being_ended_is_not_taken_over(place: Place, spawn: Processes) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    record = place.record(server_id, identity, root_dir="/another")
    age(place, server_id, 4000)
    slow = SlowEnder(place.records)
    first = place.adoption()
    first._ender = slow
    first.run(Adopted(place))
    slow.begun.wait(60)
    assert adopted(place, root_dir="/another") == []
    with place.servers.claim(server_id) as claimed:
        assert not claimed
    slow.go_on.set()
    wait_for_end(place, record, identity)
    wait_until(lambda: place.servers.list_ids() == [], "the claim has ended")


class SlowEnder(KernelEnder):
    """Waits for a signal of the test before it ends a kernel."""

    def __init__(self, records: KernelRecords) -> None:
        super().__init__(records)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def end_now(self, record: KernelRecord, identity: ProcessIdentity | None = None) -> bool:
        self.begun.set()
        assert self.go_on.wait(60)
        return super().end_now(record, identity)


@pytest.mark.parametrize(("its_own", "ours", "ends"), [(3600.0, 0.0, False), (0.0, 3600.0, True)])
def test_the_timeout_of_its_own_server_counts_for_a_kernel(
    place: Place, spawn: Processes, its_own: float, ours: float, ends: bool
) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    record = place.record(server_id, identity, root_dir="/another", orphan_timeout=its_own)
    age(place, server_id, 1000)
    assert adopted(place, orphan_timeout=ours) == []
    if ends:
        wait_for_end(place, record, identity)
    else:
        assert adopted(place, root_dir="/another") == [record]


def test_the_kernel_of_another_root_is_left_alone(place: Place, spawn: Processes) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    record = place.record(server_id, identity, root_dir="/another")
    age(place, server_id, 3000)
    assert adopted(place, orphan_timeout=3600.0) == []
    assert runs(identity)
    assert not is_forgotten(place, record)
    assert adopted(place, root_dir="/another") == [record]


def test_the_kernel_of_another_root_is_ended_when_nobody_has_followed_for_long(
    place: Place, spawn: Processes
) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    record = place.record(server_id, identity, root_dir="/another")
    age(place, server_id, 4000)
    assert adopted(place, orphan_timeout=3600.0) == []
    wait_for_end(place, record, identity)


def test_however_old_a_kernel_of_the_same_root_is_adopted(place: Place, spawn: Processes) -> None:
    record = place.record(place.dead_server(), spawn.stranger())
    age(place, record.server_id, 10 * _DAY)
    assert adopted(place, orphan_timeout=0.0) == [record]


class DyingEnder:
    """Stands for a server that dies, and so loses its locks, when it is about to end kernels."""

    def end(self, records: Sequence[KernelRecord], finished: Callable[[bool], object]) -> None:
        finished(False)


@pytest.mark.parametrize("ending", [True, False])
def test_a_kernel_that_was_not_ended_in_time_is_ended_by_the_next_server(
    place: Place, spawn: Processes, ending: bool
) -> None:
    server_id, identity = place.dead_server(ending=ending), spawn.stranger()
    record = place.record(server_id, identity, root_dir="/another")
    age(place, server_id, 4000)
    first = place.adoption()
    first._ender = DyingEnder()  # type: ignore[assignment]
    first.run(Adopted(place))
    assert runs(identity)
    assert adopted(place) == []
    wait_for_end(place, record, identity)


# Kernels whose launch was not finished


def launch(spawn: Processes, file: str, kernel_id: str) -> ProcessIdentity:
    """Launch a process as a kernel."""
    code = "import signal; signal.pause()"
    environment = {**os.environ, KERNEL_ID_VARIABLE: kernel_id}
    return spawn.stranger(sys.executable, "-S", "-c", code, "-f", file, env=environment)


@pytest.mark.parametrize("root_dir", [ROOT, "/another"])
def test_a_launch_that_was_not_finished_is_found_and_ended(
    place: Place, spawn: Processes, root_dir: str
) -> None:
    record = place.record(place.dead_server(), None, root_dir=root_dir)
    identity = launch(spawn, record.connection_file, record.kernel_id)
    assert adopted(place) == []
    wait_for_end(place, record, identity)


def test_a_launch_that_never_came_to_a_process_is_forgotten(
    place: Place, spawn: Processes
) -> None:
    record = place.record(place.dead_server(), None)
    another = launch(spawn, str(place.connection_file("another")), "another")
    console = spawn.stranger("tail", "-f", record.connection_file)
    assert adopted(place) == []
    assert is_forgotten(place, record)
    assert place.servers.list_ids() == []
    assert runs(another)
    assert runs(console)


def test_a_launch_that_was_not_ended_in_time_is_ended_by_the_next_server(
    place: Place, spawn: Processes
) -> None:
    record = place.record(place.dead_server(), None)
    identity = launch(spawn, record.connection_file, record.kernel_id)
    first = place.adoption()
    first._ender = DyingEnder()  # type: ignore[assignment]
    first.run(Adopted(place))
    assert adopted(place) == []
    wait_for_end(place, record, identity)


# Kernels that were being restarted


def test_a_kernel_that_was_being_restarted_is_adopted_without_a_process(
    place: Place, spawn: Processes
) -> None:
    server_id, stranger = place.dead_server(), spawn.stranger()
    gone = place.record(server_id, replace(stranger, started=1.0), restarting=True)
    unknown = place.record(server_id, None, restarting=True)
    found = {record.kernel_id: record.process for record in adopted(place)}
    assert found == {gone.kernel_id: None, unknown.kernel_id: None}
    assert runs(stranger)


def test_a_kernel_that_was_being_restarted_is_adopted_with_its_new_process(
    place: Place, spawn: Processes
) -> None:
    record = place.record(place.dead_server(), None, restarting=True)
    identity = launch(spawn, record.connection_file, record.kernel_id)
    assert [each.process for each in adopted(place)] == [identity]
    assert runs(identity)


def test_a_restart_of_a_server_that_was_ending_is_not_adopted(place: Place) -> None:
    record = place.record(place.dead_server(ending=True), None, restarting=True)
    assert adopted(place) == []
    wait_until(lambda: not place.record_file(record.kernel_id).exists(), "it is forgotten")
    assert is_forgotten(place, record)


# Kernels of other hosts and containers


def elsewhere(kind: str, identity: ProcessIdentity) -> dict[str, Any]:
    if kind == "host":
        return {"process": replace(identity, **_NOT_HERE), "host": "another-host"}
    if kind == "launch on another host":
        return {"process": None, "host": "another-host"}
    return {"process": replace(identity, pid_namespace="pid:[1]")}


@pytest.mark.parametrize("kind", ["host", "launch on another host", "container"])
@pytest.mark.parametrize("ending", [True, False])
def test_a_kernel_of_another_host_or_container_is_left_alone_for_a_month(
    place: Place, spawn: Processes, kind: str, ending: bool
) -> None:
    stranger = spawn.stranger()
    server_id = place.dead_server(ending=ending)
    record = place.record(server_id, **elsewhere(kind, stranger))
    age(place, server_id, 30 * _DAY - 100)
    assert adopted(place, orphan_timeout=0.0) == []
    assert not is_forgotten(place, record)
    assert place.servers.list_ids() == [server_id]
    age(place, server_id, 30 * _DAY + 100)
    assert adopted(place, orphan_timeout=0.0) == []
    assert is_forgotten(place, record)
    assert place.servers.list_ids() == []
    assert runs(stranger)


def test_a_kernel_of_another_container_is_not_forgotten_while_its_server_lives(
    place: Place, spawn: Processes, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, place.folder / "servers")
    record = place.record(server_id, **elsewhere("container", spawn.stranger()))
    age(place, server_id, 60 * _DAY)  # as after a long suspend
    assert adopted(place) == []
    assert not is_forgotten(place, record)


def test_a_kernel_of_this_boot_is_seen_whatever_the_host_was_called(
    place: Place, spawn: Processes
) -> None:
    identity = replace(spawn.stranger(), host="the-name-before")
    record = place.record(place.dead_server(), identity, host="the-name-before")
    assert adopted(place) == [record]


# Races


def test_of_two_servers_that_start_at_once_each_kernel_gets_one(
    place: Place, spawn: Processes, tmp_path: Path, other: OtherProcess, third: OtherProcess
) -> None:
    server_ids = [place.dead_server() for _ in range(3)]
    kernels = {
        place.record(server_id, spawn.stranger()).kernel_id: server_id
        for server_id in server_ids
        for _ in range(5)
    }
    start = tmp_path / "start"
    for process in (other, third):
        process.ask(ask_for_state, place.folder, "nobody")  # wait until the process runs
    for process in (other, third):
        process.tell(adopt_all, place.folder, start)
    start.touch()
    first, second = other.answer(), third.answer()
    assert Counter([*first, *second]) == Counter(list(kernels))
    # All kernels of one server are adopted by the same server.
    assert not {kernels[each] for each in first} & {kernels[each] for each in second}
    assert {kernel_id: place.records.read(kernel_id) is not None for kernel_id in kernels} == (
        dict.fromkeys(kernels, True)
    )


class MeddlingServers(Servers):
    """Calls ``meddle`` just before it takes over a server."""

    meddle: Any = None

    def take_over(self, server_id: str) -> FileLock | None:
        self.meddle()
        return super().take_over(server_id)


def meddling(place: Place) -> MeddlingServers:
    place.servers = MeddlingServers(place.folder / "servers")
    return place.servers


def test_a_kernel_that_another_server_has_adopted_meanwhile_is_left_alone(
    place: Place, spawn: Processes
) -> None:
    server_id, identity = place.dead_server(ending=True), spawn.stranger()
    record = place.record(server_id, identity)
    moved = replace(record, server_id="a faster one")
    meddling(place).meddle = lambda: place.records.write(moved)
    assert adopted(place) == []
    assert runs(identity)
    assert place.records.read(record.kernel_id) == moved
    assert not is_forgotten(place, record)


def test_a_kernel_that_was_started_just_before_its_server_died_is_adopted(
    place: Place, spawn: Processes
) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    kernel_id = str(uuid.uuid4())
    meddling(place).meddle = lambda: place.record(server_id, identity, kernel_id)
    assert [each.kernel_id for each in adopted(place)] == [kernel_id]


def test_a_damaged_record_keeps_no_other_kernel_from_being_adopted(
    place: Place, spawn: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    record = place.record(place.dead_server(), spawn.stranger())
    place.record_file("0-damaged").write_text("{")
    assert adopted(place) == [record]
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]


def test_a_zombie_is_not_adopted(place: Place, spawn: Processes) -> None:
    identity = spawn.unreaped()
    record = place.record(place.dead_server(), identity)
    subprocess.run(["kill", "-9", str(identity.pid)], check=True)
    wait_until(lambda: not runs(identity), "it is a zombie")
    assert adopted(place) == []
    assert is_forgotten(place, record)


# Servers that die while this one runs


def found(adoption: Adoption) -> dict[str, set[str]]:
    """Return the ids of the kernels that are left, by server."""
    left = adoption.find_left()
    return {server_id: {each.kernel_id for each in left[server_id]} for server_id in left}


def test_what_a_server_leaves_is_found_once_it_is_dead(
    place: Place, spawn: Processes, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, place.folder / "servers")
    record = place.record(server_id, spawn.stranger())
    adoption, taken = place.adoption(), Adopted(place)
    adoption.run(taken)
    assert found(adoption) == {}
    other.kill()
    assert found(adoption) == found(adoption) == {server_id: {record.kernel_id}}
    adoption.take_over(server_id, taken)
    assert taken == [record]
    assert found(adoption) == {}
    assert place.servers.list_ids() == []


def test_only_servers_with_kernels_in_our_root_directory_are_found(
    place: Place, spawn: Processes
) -> None:
    place.servers.register()
    place.record(place.servers.server_id, spawn.stranger())
    elsewhere, bare = place.dead_server(), place.dead_server()
    place.record(elsewhere, spawn.stranger(), root_dir="/another")
    place.record("a server without a lock file", spawn.stranger())
    assert found(place.adoption()) == {}
    assert set(place.servers.list_ids()) == {elsewhere, bare, place.servers.server_id}


def test_a_server_knows_that_it_is_alone_until_another_one_comes(
    place: Place, other: OtherProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbsessions.registry.adoption._MOMENT", 0.1)
    place.servers.register()
    adoption = place.adoption()

    def look_twice() -> bool:
        found(adoption)
        # Another server might have come in the moment of the last change.
        assert not adoption.is_alone()
        time.sleep(0.2)
        found(adoption)
        return adoption.is_alone()

    assert look_twice()
    server_id = other.ask(register_server, place.folder / "servers")
    assert not adoption.is_alone()
    assert not look_twice()
    other.kill()
    assert not look_twice()
    adoption.take_over(server_id, Adopted(place))
    assert look_twice()
    place.servers.unregister(kernels_left=False)
    assert not adoption.is_alone()


def test_what_is_left_to_others_is_not_found_again(place: Place, spawn: Processes) -> None:
    server_id = place.dead_server()
    record = place.record(server_id, spawn.stranger())
    adoption = place.adoption()
    assert found(adoption) == {server_id: {record.kernel_id}}
    adoption.leave(server_id)
    assert found(adoption) == {}
    assert adopted(place) == [record]


def test_records_are_not_read_again_for_servers_that_were_looked_at(
    place: Place, spawn: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.record(place.dead_server(), spawn.stranger(), root_dir="/another")
    adoption = place.adoption()
    assert found(adoption) == {}
    monkeypatch.setattr(KernelRecords, "read_all", None)
    assert found(adoption) == {}


def test_a_server_that_seemed_dead_when_it_was_about_to_register_is_found_later(
    place: Place, spawn: Processes, other: OtherProcess
) -> None:
    server_id = other.ask(register_server, place.folder / "servers")
    adoption = place.adoption()
    age(place, server_id, 1)
    # For a moment, the file has no lock yet.
    adoption.leave(server_id)
    other.ask(show_a_sign_of_life)
    record = place.record(server_id, spawn.stranger())
    other.kill()
    assert found(adoption) == {server_id: {record.kernel_id}}


def test_trouble_with_a_kernel_is_logged_once(
    place: Place, spawn: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    record = place.record(place.dead_server(), spawn.stranger())
    adoption = place.adoption()
    adoption.take_over(record.server_id, Adopted(place, OSError("odd")))
    assert found(adoption) == {}
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    assert not is_forgotten(place, record)
    assert adopted(place) == [record]


def test_trouble_with_the_folder_is_logged_once(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("odd")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(place.servers, "list_ids", fail)
    adoption = place.adoption()
    assert [found(adoption) for _ in range(3)] == [{}, {}, {}]
    levels = [entry.levelno for entry in caplog.records]
    assert levels == [logging.WARNING, logging.DEBUG, logging.DEBUG]


def test_what_another_server_is_taking_over_is_left_to_it(place: Place, spawn: Processes) -> None:
    server_id = place.dead_server()
    record = place.record(server_id, spawn.stranger())
    adoption, taken = place.adoption(), Adopted(place)
    with place.servers.claim(server_id) as claimed:
        assert claimed
        assert found(adoption) == {}
        adoption.take_over(server_id, taken)
    # The other one has left it as it was.
    assert found(adoption) == {server_id: {record.kernel_id}}
    assert taken == []


def test_kernels_of_a_server_that_was_ending_are_ended_by_a_running_server(
    place: Place, spawn: Processes
) -> None:
    server_id, identity = place.dead_server(ending=True), spawn.stranger()
    record = place.record(server_id, identity)
    adoption, taken = place.adoption(), Adopted(place)
    assert found(adoption) == {server_id: {record.kernel_id}}
    adoption.take_over(server_id, taken)
    wait_for_end(place, record, identity)
    assert taken == []


# Namespaces


@pytest.mark.parametrize(
    ("theirs", "ours", "is_adopted"),
    [
        ("a", "a", True),
        ("a", "b", False),
        (None, "b", True),
        ("a", None, True),
        (None, None, True),
    ],
)
def test_kernels_of_another_namespace_are_left_to_its_servers(
    place: Place, spawn: Processes, theirs: str | None, ours: str | None, is_adopted: bool
) -> None:
    server_id, identity = place.dead_server(), spawn.stranger()
    record = place.record(server_id, identity, namespace=theirs)
    running = place.adoption()
    running.namespace = ours
    assert found(running) == ({server_id: {record.kernel_id}} if is_adopted else {})
    starting, taken = place.adoption(), Adopted(place)
    starting.namespace = ours
    starting.run(taken)
    assert [each.kernel_id for each in taken] == [record.kernel_id] * is_adopted
    assert runs(identity)


# What the start says about other root directories


def test_where_kernels_of_dead_servers_go_on_is_said_once(
    place: Place, spawn: Processes, other: OtherProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, live = place.dead_server(), other.ask(register_server, place.folder / "servers")
    for root_dir in ("/x", "/y", "/x"):
        place.record(first, spawn.stranger(), root_dir=root_dir)
    place.record(first, replace(spawn.stranger(), started=1.0), root_dir="/ended")
    place.record(live, spawn.stranger(), root_dir="/live")
    place.record(place.dead_server(ending=True), spawn.stranger(), root_dir="/ending")
    place.record(place.dead_server(), spawn.stranger())
    adoption = place.adoption()

    adoption.run(Adopted(place))

    said = [each.getMessage() for each in caplog.records if "directories" in each.getMessage()]
    assert said == [
        "Kernels that dead servers have left in other root directories go on running. "
        "A server that starts there takes them over: /x (2), /y (1)"
    ]
    caplog.clear()
    place.record(place.dead_server(), spawn.stranger(), root_dir="/z")
    assert found(adoption) == {}
    assert caplog.records == []
