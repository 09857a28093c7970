"""Safe identification, monitoring and signalling of processes that are not our children."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec

from nbsessions.identity import boot_id, pid_namespace, process_started
from nbsessions.locks import SUPPORTED

KERNEL_ID_VARIABLE = "NBSESSIONS_KERNEL_ID"
"""The environment variable that marks the process of a surviving kernel.

It does not prove that a process is a kernel, because the kernel's child processes inherit it.
"""

_FIRST_DELAY, _LAST_DELAY = 0.005, 0.1


class ProcessIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Identifies a process, even if its pid was used before or is reused later."""

    pid: Annotated[int, msgspec.Meta(gt=0, lt=2**31)]
    started: float
    """The start time: clock ticks since boot if /proc has them, else seconds since the epoch."""
    host: str
    boot_id: str
    pid_namespace: str

    @property
    def is_of_this_boot(self) -> bool:
        """Whether the process belongs to the current boot and pid namespace."""
        return (self.boot_id, self.pid_namespace) == (boot_id(), pid_namespace())


def identify(pid: int) -> ProcessIdentity:
    """Return the identity of a running process. Raises ProcessLookupError if there is none."""
    return ProcessIdentity(
        pid=pid,
        started=process_started(pid),
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=pid_namespace(),
    )


def attach(identity: ProcessIdentity) -> AttachedProcess:
    """Return an object to monitor and signal the process.

    Raises ProcessLookupError if the process is not running, is a zombie, belongs to another boot
    or pid namespace, or if its pid now belongs to another process.
    """
    if not identity.is_of_this_boot:
        raise ProcessLookupError(f"process {identity.pid} belongs to another boot or container")
    process: AttachedProcess
    try:
        process = _PidfdProcess(identity)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        # Python or the system does not support pidfds, a security policy forbids them, or no file
        # descriptor is left.
        process = _PsutilProcess(identity)
    if process.poll() is not None:
        raise ProcessLookupError(f"process {identity.pid} has ended")
    return process


def is_running(identity: ProcessIdentity) -> bool:
    """Return whether the process is running."""
    try:
        attach(identity)
    except ProcessLookupError:
        return False
    return True


def find_kernel(connection_file: str, environment: dict[str, str]) -> ProcessIdentity | None:
    """Return the current user's kernel process with this connection file, or None.

    The connection file alone is not enough, because the command line of a console that is
    connected to the kernel contains it too. Nor is the environment, because the kernel's child
    processes inherit it. Therefore the process must also be a session leader.
    """
    for identity, command, found in _list_session_leaders():
        named = any(connection_file in argument for argument in command)
        if named and environment.items() <= found.items():
            return identity
    return None


class KernelProcess(msgspec.Struct, frozen=True):
    """A running process of a kernel."""

    kernel_id: str
    connection_file: str
    identity: ProcessIdentity
    survives: bool
    """Whether it was launched to outlive its server, according to its environment."""


def list_kernels(folder: str) -> Iterator[KernelProcess]:
    """Yield the current user's kernels whose connection files are in this folder.

    Goes through all processes once. Like ``find_kernel``, it considers session leaders only. The
    folder must be a real path, because the kernels' command lines contain real paths.
    """
    # The lookbehind excludes matches at the end of a longer path.
    pattern = re.compile(
        r"(?<![\w./-])" + re.escape(os.path.join(folder, "kernel-")) + r"([\w-]+)\.json"
    )
    for identity, command, environment in _list_session_leaders():
        found = next(filter(None, map(pattern.search, command)), None)
        if found is not None:
            survives = environment.get(KERNEL_ID_VARIABLE) == found[1]
            yield KernelProcess(found[1], found[0], identity, survives)


def _list_session_leaders() -> Iterator[tuple[ProcessIdentity, list[str], dict[str, str]]]:
    """Yield the identity, command line and environment of the user's session leaders."""
    import psutil  # imported late, because the import is slow

    if not SUPPORTED:
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            # Before the checks. After them, the pid might have been reused, and the identity might
            # be that of a process that was not checked.
            identity = identify(process.pid)
            leads = os.getsid(process.pid) == process.pid
            if leads and process.uids().effective == os.geteuid():
                yield identity, process.cmdline(), process.environ()


class AttachedProcess:
    """A process with the interface of Popen.

    Its exit code is not available, because the process is not our child.
    """

    stdin = stdout = stderr = None

    def __init__(self, identity: ProcessIdentity) -> None:
        self.pid = identity.pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return None while the process runs, and -1 after it has ended."""
        if self.returncode is None and self._has_ended(0):
            self.returncode = -1
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait up to ``timeout`` seconds for the process to end, and return ``poll()``."""
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
    """A process opened as a pidfd, which never refers to another process."""

    _descriptor: int | None = None

    def __init__(self, identity: ProcessIdentity) -> None:
        super().__init__(identity)
        self._descriptor = os.pidfd_open(identity.pid)
        try:
            # Compare after opening, because the pidfd keeps referring to the same process.
            if process_started(identity.pid) != identity.started:
                raise ProcessLookupError(f"the id {identity.pid} belongs to another process")
        except BaseException:
            self._close()
            raise

    def _has_ended(self, timeout: float | None) -> bool:
        if self._descriptor is None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        # A pidfd becomes readable when the process ends, even if nobody reaps it.
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
    """A process on a system without pidfds. psutil checks its start time before each signal."""

    def __init__(self, identity: ProcessIdentity) -> None:
        import psutil  # imported late, as above

        super().__init__(identity)
        try:
            self._process = psutil.Process(identity.pid)
        except psutil.Error as error:
            raise ProcessLookupError(f"no process {identity.pid}") from error
        if process_started(identity.pid) != identity.started:
            raise ProcessLookupError(f"the id {identity.pid} belongs to another process")

    def _has_ended(self, timeout: float | None) -> bool:
        # Poll instead of using `psutil.Process.wait`, which does not return for a zombie that
        # nobody reaps.
        deadline = None if timeout is None else time.monotonic() + timeout
        delay = _FIRST_DELAY
        while not self._is_gone():
            left = delay if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(delay, left))
            delay = min(2 * delay, _LAST_DELAY)
        return True

    def _is_gone(self) -> bool:
        import psutil  # imported late, as above

        try:
            running = self._process.is_running()
            return not running or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def _signal(self, signum: int) -> None:
        import psutil  # imported late, as above

        try:
            self._process.send_signal(signum)
        except psutil.NoSuchProcess:
            return
        except psutil.AccessDenied as error:
            raise PermissionError(f"process {self.pid} belongs to another user") from error
