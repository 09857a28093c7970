"""Kernels and their process groups are ended, even if they ignore SIGTERM."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from msgspec.structs import replace

from nbsessions.registry import ending
from nbsessions.registry.ending import KernelEnder, end_process
from nbsessions.registry.process import (
    AttachedProcess,
    ProcessIdentity,
    attach,
    identify,
)
from support.surviving import Place, Processes, runs
from support.waiting import wait_until

_IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
_FAMILY = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", sys.argv[1] + "print(flush=True); "
                          "signal.pause()"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def ender(place: Place) -> KernelEnder:
    return KernelEnder(place.records)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only a short time after SIGTERM, and the usual time after SIGKILL."""
    patience = iter([0.2])
    have_ended = ending._have_ended

    def have_less_patience(processes: list[AttachedProcess]) -> bool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ending, "_GRACE", next(patience, ending._GRACE))
            return have_ended(processes)

    monkeypatch.setattr(ending, "_have_ended", have_less_patience)


def stubborn(spawn: Processes) -> ProcessIdentity:
    """Start a process that ignores SIGTERM."""
    process = spawn.child(
        "sh",
        "-c",
        "trap '' TERM; echo; exec sleep 600",
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return identify(process.pid)


def family(spawn: Processes, child: str = "import signal; ") -> list[ProcessIdentity]:
    """Start a process that leads a group, and a child of that process.

    ``child`` is code that the child runs first.
    """
    process = spawn.child(
        sys.executable,
        "-S",
        "-c",
        _FAMILY,
        child,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    return [identify(process.pid), spawn.keep(int(process.stdout.readline()))]


def test_a_process_is_ended_gently(spawn: Processes) -> None:
    child = spawn.child()
    assert end_process(attach(identify(child.pid)))
    assert child.wait() == -signal.SIGTERM


def test_a_process_that_ignores_sigterm_is_killed(spawn: Processes, short_grace: None) -> None:
    identity = stubborn(spawn)
    assert end_process(attach(identity))
    assert not runs(identity)


def test_the_whole_group_is_ended(spawn: Processes) -> None:
    leader, child = family(spawn)
    assert end_process(attach(leader))
    assert not runs(leader)
    assert not runs(child)


def test_a_child_that_ignores_sigterm_is_killed_after_its_leader(
    spawn: Processes, short_grace: None
) -> None:
    leader, child = family(spawn, _IGNORE)
    assert end_process(attach(leader))
    assert not runs(leader)
    assert not runs(child)


def test_children_have_their_time_to_end(spawn: Processes) -> None:
    wait_a_moment = (
        "import signal, time, os; "
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os._exit(0))); "
    )
    leader, child = family(spawn, wait_a_moment)
    start = time.monotonic()
    assert end_process(attach(leader))
    assert 0.25 < time.monotonic() - start < ending._GRACE
    assert not runs(child)


def test_a_child_in_a_session_of_its_own_is_not_ended(spawn: Processes) -> None:
    leader, child = family(spawn, "import os, signal; os.setsid(); ")
    try:
        assert end_process(attach(leader))
        assert runs(child)
    finally:
        os.kill(child.pid, signal.SIGKILL)


def test_a_process_that_leads_no_group_is_ended_alone(spawn: Processes) -> None:
    child, other = spawn.child(), spawn.child()
    assert os.getpgid(child.pid) == os.getpgid(0)
    assert end_process(attach(identify(child.pid)))
    assert other.poll() is None


def test_a_process_that_has_ended_is_gone(spawn: Processes) -> None:
    child = spawn.child()
    held = attach(identify(child.pid))
    child.kill()
    child.wait()
    assert end_process(held)


def test_a_process_that_cannot_be_ended_is_not_gone(
    spawn: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_GRACE", 0.2)
    identity = spawn.stranger()
    held = attach(identity)

    def refuse(signum: int) -> None:
        raise PermissionError

    monkeypatch.setattr(held, "_signal", refuse)
    assert not end_process(held)
    assert runs(identity)


# Kernels


def test_an_ended_kernel_leaves_nothing(
    place: Place, spawn: Processes, ender: KernelEnder
) -> None:
    identity = spawn.stranger()
    record = place.record("a-server", identity)
    place.log_file(record.kernel_id).touch()
    assert ender.end_now(record)
    assert not runs(identity)
    assert list((place.folder / "kernels").iterdir()) == []
    assert not os.path.exists(record.connection_file)


def test_a_record_that_cannot_be_removed_is_left_for_the_next_server(
    place: Place,
    spawn: Processes,
    ender: KernelEnder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(path: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    identity = spawn.stranger()
    record = place.record("a-server", identity)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert not ender.end_now(record)
    assert not runs(identity)
    assert record.kernel_id in caplog.text
    assert ender.end_now(record)
    assert not place.record_file(record.kernel_id).exists()


def test_a_kernel_is_ended_behind_the_caller(
    place: Place, spawn: Processes, ender: KernelEnder
) -> None:
    identity = spawn.stranger()
    record = place.record("a-server", identity)
    outcomes: list[bool] = []
    ender.end([record], outcomes.append)
    wait_until(lambda: outcomes == [True], "it is said to be gone")
    assert not place.record_file(record.kernel_id).exists()
    assert not runs(identity)


def test_what_ends_kernels_does_not_keep_the_server(
    place: Place, spawn: Processes, ender: KernelEnder
) -> None:
    ender.end([place.record("a-server", stubborn(spawn))], lambda ended: None)
    threads = [each for each in threading.enumerate() if each.name == "nbsessions-ending"]
    assert threads
    assert all(each.daemon for each in threads)
    for child in spawn._children:
        child.kill()
    for each in threads:
        each.join()


def test_the_process_may_be_told(place: Place, spawn: Processes, ender: KernelEnder) -> None:
    identity = spawn.stranger()
    record = place.record("a-server", None)
    assert ender.end_now(record, identity)
    assert not runs(identity)
    assert not place.record_file(record.kernel_id).exists()


def test_a_kernel_without_a_process_is_forgotten(place: Place, ender: KernelEnder) -> None:
    record = place.record("a-server", None)
    assert ender.end_now(record)
    assert not place.record_file(record.kernel_id).exists()


def test_a_stranger_with_the_kernels_process_id_is_not_harmed(
    place: Place, spawn: Processes, ender: KernelEnder
) -> None:
    stranger = spawn.stranger()
    record = place.record("a-server", replace(stranger, started=1.0))
    assert ender.end_now(record)
    assert runs(stranger)
    assert not place.record_file(record.kernel_id).exists()


def test_a_kernel_that_cannot_be_ended_keeps_its_record(
    place: Place, spawn: Processes, ender: KernelEnder, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = place.record("a-server", spawn.stranger())
    monkeypatch.setattr(ending, "end_process", lambda process: False)
    assert not ender.end_now(record)
    assert place.record_file(record.kernel_id).exists()
    assert os.path.exists(record.connection_file)


def test_a_kernel_that_another_server_has_by_now_keeps_its_record(
    place: Place, spawn: Processes, ender: KernelEnder
) -> None:
    identity = spawn.stranger()
    record = place.record("a-server", identity)
    place.records.write(replace(record, server_id="another"))
    assert ender.end_now(record)
    assert not runs(identity)
    assert place.record_file(record.kernel_id).exists()


def test_a_zombie_counts_as_ended(place: Place, spawn: Processes, ender: KernelEnder) -> None:
    identity = spawn.unreaped()
    assert ender.end_now(place.record("a-server", identity))
    assert psutil.Process(identity.pid).status() == psutil.STATUS_ZOMBIE
