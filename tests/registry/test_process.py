"""Processes that are not our children are found, identified, monitored and signalled."""

from __future__ import annotations

import errno
import gc
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from msgspec.structs import replace

from nbsessions.registry import process as process_module
from nbsessions.registry.process import (
    AttachedProcess,
    ProcessIdentity,
    attach,
    find_kernel,
    identify,
    list_kernels,
)
from support.surviving import Processes, runs
from support.waiting import wait_until

_TESTS = Path(__file__).parents[1]
_MARK = "NBSESSIONS_TEST_MARK"
_IGNORE_SIGTERM = "trap '' TERM; echo ready; exec sleep 600"


# macOS has no pidfds.
KINDS = ["pidfd", "psutil"] if hasattr(os, "pidfd_open") else ["psutil"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of AttachedProcess to test."""
    chosen: str = request.param
    if chosen == "psutil":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return chosen


def kill(identity: ProcessIdentity) -> None:
    os.kill(identity.pid, signal.SIGKILL)


# Attaching


def test_processes_are_held_by_what_the_platform_has(kind: str, spawn: Processes) -> None:
    held = attach(spawn.stranger())
    assert type(held).__name__ == f"_{kind.capitalize()}Process"


def test_a_child_is_held(kind: str, spawn: Processes) -> None:
    child = spawn.child()
    held = attach(identify(child.pid))
    assert held.pid == child.pid
    assert held.poll() is None
    assert held.returncode is None


def test_a_stranger_is_held(kind: str, spawn: Processes) -> None:
    identity = spawn.stranger()
    held = attach(identity)
    assert held.pid == identity.pid
    assert held.poll() is None


def test_the_end_of_a_stranger_is_noticed(kind: str, spawn: Processes) -> None:
    identity = spawn.stranger()
    held = attach(identity)
    kill(identity)
    wait_until(lambda: held.poll() is not None, "it has ended")
    assert held.poll() == held.returncode == held.wait() == -1


def test_the_end_is_noticed_where_nobody_reaps(kind: str, spawn: Processes) -> None:
    identity = spawn.unreaped()
    held = attach(identity)
    kill(identity)
    wait_until(lambda: held.poll() == -1, "it has ended")
    assert psutil.Process(identity.pid).status() == psutil.STATUS_ZOMBIE


def test_a_zombie_cannot_be_held(kind: str, spawn: Processes) -> None:
    identity = spawn.unreaped()
    kill(identity)
    wait_until(lambda: psutil.Process(identity.pid).status() == "zombie", "it is a zombie")
    with pytest.raises(ProcessLookupError, match=str(identity.pid)):
        attach(identity)


def test_a_process_that_has_ended_cannot_be_held(kind: str, spawn: Processes) -> None:
    child = spawn.child("true")
    identity = identify(child.pid)
    child.wait()
    with pytest.raises(ProcessLookupError):
        attach(identity)


def test_what_the_pipes_of_a_popen_would_be_is_none(kind: str, spawn: Processes) -> None:
    held = attach(spawn.stranger())
    assert (held.stdin, held.stdout, held.stderr) == (None, None, None)


@pytest.mark.parametrize(
    "other",
    [
        {"started": 1.0},
        {"boot_id": "another boot"},
        {"pid_namespace": "pid:[1]"},
        {"pid": 2**22 + 1},
    ],
    ids=["time", "boot", "namespace", "pid"],
)
def test_nothing_else_is_taken_for_it(
    kind: str, spawn: Processes, other: dict[str, object]
) -> None:
    identity = spawn.stranger()
    with pytest.raises(ProcessLookupError):
        attach(replace(identity, **other))


def test_a_thread_that_has_the_id_now_is_not_taken_for_it(kind: str, spawn: Processes) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(ProcessLookupError):
            attach(replace(identify(os.getpid()), pid=thread.native_id, started=1.0))
    finally:
        done.set()
        thread.join()


def test_an_identity_survives_json(spawn: Processes) -> None:
    identity = spawn.stranger()
    again = msgspec.json.decode(msgspec.json.encode(identity), type=ProcessIdentity)
    assert again == identity
    attach(again)


def test_a_process_that_is_not_there_has_no_identity(spawn: Processes) -> None:
    child = spawn.child("true")
    child.wait()
    with pytest.raises(ProcessLookupError):
        identify(child.pid)


def test_a_command_with_parentheses_and_blanks_does_not_hide_when_it_started(
    spawn: Processes, tmp_path: Path
) -> None:
    odd = tmp_path / "a) R 1 (b"
    shutil.copyfile(str(shutil.which("sleep")), odd)
    odd.chmod(0o700)
    child, plain = spawn.child(str(odd), "600"), spawn.child()
    assert abs(identify(child.pid).started - identify(plain.pid).started) < 1000


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EMFILE, errno.ENODEV])
def test_where_pidfds_are_refused_there_is_another_way(
    spawn: Processes, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(number, os.strerror(number))

    identity = spawn.stranger()
    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    held = attach(identity)
    held.kill()
    assert held.wait() == -1


def test_the_next_process_of_the_same_id_is_a_stranger(spawn: Processes) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    tried = subprocess.run(["/bin/sh", "-c", shlex.join([*unshare, "true"])], capture_output=True)
    if tried.returncode:
        # Another test changes the start time instead, and runs on all platforms. This one has to
        # choose the pid of the next process, which requires a pid namespace. macOS has none, and
        # containers may forbid them even to root.
        pytest.skip("the system forbids pid namespaces, and nothing can be installed to change it")
    outside = msgspec.json.encode(spawn.stranger()).decode()
    done = subprocess.run(
        [*unshare, sys.executable, "-m", "support.pid_reuse", outside],
        check=False,
        capture_output=True,
        text=True,
        cwd=_TESTS,
    )
    assert (done.stdout, done.stderr) == ("ok\n", "")


# Waiting


def test_waiting_ends_with_the_time_that_it_has(kind: str, spawn: Processes) -> None:
    held = attach(spawn.stranger())
    start = time.monotonic()
    assert held.wait(0.1) is None
    assert held.wait(0) is None
    assert held.wait(-1) is None
    assert 0.09 < time.monotonic() - start < 5


@pytest.mark.parametrize("start", [Processes.stranger, Processes.unreaped])
@pytest.mark.parametrize("timeout", [None, 30])
def test_waiting_ends_with_the_process(
    kind: str,
    spawn: Processes,
    start: Callable[[Processes], ProcessIdentity],
    timeout: float | None,
) -> None:
    identity = start(spawn)
    held = attach(identity)
    outcome: list[int | None] = []
    waiter = threading.Thread(target=lambda: outcome.append(held.wait(timeout)), daemon=True)
    waiter.start()
    kill(identity)
    waiter.join(20)
    assert outcome == [-1]


# Signals


@pytest.mark.parametrize(
    "send",
    [
        AttachedProcess.kill,
        AttachedProcess.terminate,
        lambda held: held.send_signal(signal.SIGINT),
    ],
    ids=["kill", "terminate", "interrupt"],
)
def test_a_signal_arrives(
    kind: str, spawn: Processes, send: Callable[[AttachedProcess], None]
) -> None:
    held = attach(spawn.stranger())
    send(held)
    assert held.wait(20) == -1


def test_only_what_is_meant_is_sent(kind: str, spawn: Processes) -> None:
    stubborn = spawn.child("sh", "-c", _IGNORE_SIGTERM, stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == "ready\n"
    held = attach(identify(stubborn.pid))
    held.terminate()
    assert held.wait(0.1) is None
    held.kill()
    assert held.wait(20) == -1
    assert stubborn.wait() == -signal.SIGKILL


def test_a_signal_to_a_process_that_has_ended_is_no_error(kind: str, spawn: Processes) -> None:
    child = spawn.child()
    held = attach(identify(child.pid))
    child.kill()
    child.wait()
    held.terminate()
    held.kill()
    assert held.poll() == -1


def test_a_process_that_ends_just_before_the_signal_is_no_error(
    kind: str, spawn: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = spawn.child()
    held = attach(identify(child.pid))
    child.kill()
    child.wait()
    monkeypatch.setattr(held, "poll", lambda: None)
    held.terminate()


def test_a_signal_that_is_not_permitted_is_an_error(
    kind: str, spawn: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = attach(spawn.stranger())

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as fault:
        if kind == "pidfd":
            fault.setattr(signal, "pidfd_send_signal", refuse)
        else:
            fault.setattr(os, "kill", refuse)
        with pytest.raises(PermissionError):
            held.terminate()
    assert held.poll() is None


# Descriptors


def test_no_descriptor_is_left_behind(kind: str, spawn: Processes) -> None:
    alive, dead = spawn.stranger(), spawn.child("true")
    gone = identify(dead.pid)
    dead.wait()
    attach(alive)
    gc.collect()
    before = os.listdir("/dev/fd")
    for _ in range(20):
        for identity in (gone, replace(alive, started=1.0)):
            with pytest.raises(ProcessLookupError):
                attach(identity)
        attach(alive).poll()
        ended = spawn.child()
        held = attach(identify(ended.pid))
        ended.kill()
        ended.wait()
        assert held.wait() == -1
    del held
    assert os.listdir("/dev/fd") == before


def test_a_descriptor_is_not_inherited_by_other_programs(kind: str, spawn: Processes) -> None:
    def inherited() -> str:
        command = [sys.executable, "-S", "-c", "import os; print(os.listdir('/dev/fd'))"]
        return subprocess.check_output(command, text=True, close_fds=False)

    before = inherited()
    held = attach(spawn.stranger())
    assert inherited() == before
    assert held.poll() is None


# Kernels that were launched, but whose process was not recorded


def kernel_command(file: Path, code: str = "import signal; signal.pause()") -> list[str]:
    return [sys.executable, "-S", "-c", code, "-f", str(file)]


def marked(value: str = "a-kernel") -> dict[str, str]:
    return {**os.environ, _MARK: value}


def test_a_kernel_is_found_by_its_connection_file_and_its_mark(
    spawn: Processes, tmp_path: Path
) -> None:
    file = tmp_path / "kernel.json"
    identity = spawn.stranger(*kernel_command(file), env=marked())
    assert find_kernel(str(file), {_MARK: "a-kernel"}) == identity


def test_a_console_on_the_same_connection_file_is_not_taken_for_the_kernel(
    spawn: Processes, tmp_path: Path
) -> None:
    file = tmp_path / "kernel.json"
    spawn.stranger(*kernel_command(file))
    assert find_kernel(str(file), {_MARK: "a-kernel"}) is None


def test_a_child_that_inherited_the_mark_is_not_taken_for_the_kernel(
    spawn: Processes, tmp_path: Path
) -> None:
    file = tmp_path / "kernel.json"
    spawn.stranger(env=marked())
    # The child's command line contains the file too, but it does not lead a session.
    spawn.child(*kernel_command(file), env=marked())
    assert find_kernel(str(file), {_MARK: "a-kernel"}) is None


def test_the_kernel_is_found_beside_its_children_and_consoles(
    spawn: Processes, tmp_path: Path
) -> None:
    file = tmp_path / "kernel.json"
    fork = "import os, signal; os.fork(); signal.pause()"
    spawn.stranger(*kernel_command(file))
    kernel = spawn.stranger(*kernel_command(file, fork), env=marked(), start_new_session=True)
    wait_until(lambda: psutil.Process(kernel.pid).children(), "it has a child")
    try:
        assert find_kernel(str(file), {_MARK: "a-kernel"}) == kernel
    finally:
        os.killpg(kernel.pid, signal.SIGKILL)


def test_another_kernel_is_not_taken_for_it(spawn: Processes, tmp_path: Path) -> None:
    spawn.stranger(*kernel_command(tmp_path / "kernel-2.json"), env=marked())
    assert find_kernel(str(tmp_path / "kernel-1.json"), {_MARK: "a-kernel"}) is None
    assert find_kernel(str(tmp_path / "kernel-2.json"), {_MARK: "another"}) is None


def test_another_users_process_is_not_taken_for_it(
    spawn: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kernel.json"
    kernel = spawn.stranger(*kernel_command(file), env=marked())
    assert find_kernel(str(file), {_MARK: "a-kernel"}) == kernel
    # Pretend to be another user, because only root could change the user of the process.
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert find_kernel(str(file), {_MARK: "a-kernel"}) is None


def test_kernels_are_listed_by_the_folder_of_their_connection_files(
    spawn: Processes, tmp_path: Path
) -> None:
    files = [tmp_path / "kernel-a.json", tmp_path / "kernel-b.json"]
    spawn.stranger(*kernel_command(files[0]))
    spawn.stranger(*kernel_command(Path(f"--file={files[1]}")))
    spawn.stranger(*kernel_command(Path(f"/elsewhere{files[0]}")))
    found = [(each.kernel_id, each.connection_file) for each in list_kernels(str(tmp_path))]
    assert sorted(found) == [("a", str(files[0])), ("b", str(files[1]))]


def test_where_none_survives_no_kernel_is_looked_for(
    spawn: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "kernel-a.json"
    spawn.stranger(*kernel_command(file), env=marked())
    monkeypatch.setattr(process_module, "SUPPORTED", False)
    assert find_kernel(str(file), {_MARK: "a-kernel"}) is None
    assert list(list_kernels(str(tmp_path))) == []


def test_a_kernel_that_has_ended_is_not_found(spawn: Processes, tmp_path: Path) -> None:
    file = tmp_path / "kernel.json"
    identity = spawn.stranger(*kernel_command(file), env=marked())
    kill(identity)
    wait_until(lambda: not runs(identity), "it has ended")
    assert find_kernel(str(file), {_MARK: "a-kernel"}) is None
