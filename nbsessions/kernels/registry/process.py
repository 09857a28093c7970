"""Processes that are not our children: told apart for certain, watched and signalled safely."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from nbsessions.identity import boot_id, pid_namespace
from nbsessions.locks import SUPPORTED

KERNEL_ID_VARIABLE = "NBSESSIONS_KERNEL_ID"
"""Marks a kernel's environment. No proof by itself: what a notebook starts inherits it."""

_FIRST_DELAY, _LAST_DELAY = 0.005, 0.1


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What tells a process from all others that had its id, or will have it."""

    pid: Annotated[int, msgspec.Meta(gt=0, lt=2**31)]
    started: float
    """Clock ticks since the boot where /proc tells them, else seconds since the epoch."""
    host: str
    boot_id: str
    pid_namespace: str

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the process could be running, and be seen from here."""
        return (self.boot_id, self.pid_namespace) == (boot_id(), pid_namespace())


def identify(pid: int) -> ProcessIdentity:
    """Return the identity of a process that runs. Raises ProcessLookupError."""
    return ProcessIdentity(
        pid=pid,
        started=_started(pid),
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
    )


def attach(identity: ProcessIdentity) -> AttachedProcess:
    """Return a hold on the process. Raises ProcessLookupError unless it is there and runs.

    A zombie is not there. Nor is a process of another boot or pid namespace, nor one that got
    the id later.
    """
    if not identity.is_of_this_boot:
        raise ProcessLookupError(f"process {identity.pid} was of another boot or container")
    process: AttachedProcess
    try:
        process = _PidfdProcess(identity)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        # Python, the system or its policy has no pidfds, or there is no descriptor left.
        process = _PsutilProcess(identity)
    if process.poll() is not None:
        raise ProcessLookupError(f"process {identity.pid} has ended")
    return process


def is_running(identity: ProcessIdentity) -> bool:
    """Return whether the process is there and runs."""
    try:
        attach(identity)
    except ProcessLookupError:
        return False
    return True


def find_kernel(connection_file: str, environment: dict[str, str]) -> ProcessIdentity | None:
    """Return our user's process that was launched as a kernel with this connection file.

    The file alone is no proof: a console that is attached to the kernel names it, too. Nor is
    the marked environment alone, which is inherited by what a notebook starts. A kernel also
    leads a session of its own.
    """
    for identity, command, found in _list_session_leaders():
        named = any(connection_file in argument for argument in command)
        if named and environment.items() <= found.items():
            return identity
    return None


class KernelProcess(NamedTuple):
    """A process that was launched as a kernel."""

    kernel_id: str
    connection_file: str
    identity: ProcessIdentity
    survives: bool
    """Whether it was launched to outlive its server: its environment says so."""


def list_kernels(folder: str) -> Iterator[KernelProcess]:
    """Go through our user's kernels whose connection files are in this folder.

    In one pass over all processes, with the proofs of ``find_kernel``. The folder is a real
    path, as in the kernels' command lines.
    """
    # Not the end of a longer path.
    pattern = re.compile(
        r"(?<![\w./-])" + re.escape(os.path.join(folder, "kernel-")) + r"([\w-]+)\.json"
    )
    for identity, command, environment in _list_session_leaders():
        found = next(filter(None, map(pattern.search, command)), None)
        if found is not None:
            survives = environment.get(KERNEL_ID_VARIABLE) == found[1]
            yield KernelProcess(found[1], found[0], identity, survives)


def _list_session_leaders() -> Iterator[tuple[ProcessIdentity, list[str], dict[str, str]]]:
    """Go through our user's processes that lead a session: command lines and environments."""
    import psutil  # takes longer than to start without it

    if not SUPPORTED:
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # Before the checks, so that it cannot be of a process that came after them.
            identity = identify(process.pid)
            leads = os.getsid(process.pid) == process.pid
            if leads and process.uids().effective == os.geteuid():
                yield identity, process.cmdline(), process.environ()


def _started(pid: int) -> float:
    """Return when a process started. Raises ProcessLookupError."""
    try:
        # Behind the command, which may hold blanks and parentheses: proc(5), field 22.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        pass
    import psutil  # as above

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error as error:
        raise ProcessLookupError(f"no process {pid}") from error


class AttachedProcess:
    """A Popen look-alike. The exit code of a process that is not our child cannot be known."""

    stdin = stdout = stderr = None

    def __init__(self, identity: ProcessIdentity) -> None:
        self.pid = identity.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return None while the process runs, then -1."""
        if self.returncode is None and self._has_ended(0):
            self.returncode = -1
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end, for so many seconds at the most; return what ``poll`` does."""
        if self.returncode is None:
            self._has_ended(timeout)
        return self.poll()

    def send_signal(self, signum: int) -> None:
        """Send the signal, unless the process has ended."""
        if self.poll() is None:
            self._signal(signum)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def _has_ended(self, timeout: float | None) -> bool:
        raise NotImplementedError

    def _signal(self, signum: int) -> None:
        raise NotImplementedError


class _PidfdProcess(AttachedProcess):
    """Held by a file descriptor, which never comes to mean another process."""

    _descriptor: int | None = None

    def __init__(self, identity: ProcessIdentity) -> None:
        super().__init__(identity)
        self._descriptor = os.pidfd_open(identity.pid)
        try:
            # In this order: what the descriptor means can no longer change.
            if _started(identity.pid) != identity.started:
                raise ProcessLookupError(f"the id {identity.pid} belongs to another process")
        except BaseException:
            self._close()
            raise

    def _has_ended(self, timeout: float | None) -> bool:
        if self._descriptor is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        # Readable once the process has ended, reaped or not.
        if not poll.poll(None if timeout is None else max(0.0, timeout * 1000)):
            return False
        self._close()
        return True

    def _signal(self, signum: int) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signum)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self._close()


class _PsutilProcess(AttachedProcess):
    """Where there are no pidfds: psutil compares the start time before each signal."""

    def __init__(self, identity: ProcessIdentity) -> None:
        import psutil  # as above

        super().__init__(identity)
        try:
            self._process = psutil.Process(identity.pid)
        except psutil.Error as error:
            raise ProcessLookupError(f"no process {identity.pid}") from error
        if _started(identity.pid) != identity.started:
            raise ProcessLookupError(f"the id {identity.pid} belongs to another process")

    def _has_ended(self, timeout: float | None) -> bool:
        # Not by psutil's own waiting, for which a zombie that nobody reaps never ends.
        deadline = None if timeout is None else time.monotonic() + timeout
        delay = _FIRST_DELAY
        while not self._is_over():
            left = delay if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(delay, left))
            delay = min(2 * delay, _LAST_DELAY)
        return True

    def _is_over(self) -> bool:
        import psutil  # as above

        try:
            running = self._process.is_running()
            return not running or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def _signal(self, signum: int) -> None:
        import psutil  # as above

        try:
            self._process.send_signal(signum)
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied as error:
            raise PermissionError(f"process {self.pid} is another user's") from error
