"""Has a process id used twice, and checks that the second process is not taken for the first.

Runs as process 1 of a pid namespace of its own, where the next id can be chosen. Its argument is
the identity of a process outside.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from nbsessions.kernels.registry import process
from nbsessions.kernels.registry.process import ProcessIdentity, attach, identify
from support.waiting import wait_until

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def main() -> None:
    """Print ``ok`` in the end."""
    outside = msgspec.json.decode(sys.argv[1], type=ProcessIdentity)
    assert _is_gone(outside), "a process of another namespace was found"
    first = _sleep()
    identity = identify(first.pid)
    holds = [hold(identity) for hold in (process._PidfdProcess, process._PsutilProcess)]
    assert [each.poll() for each in holds] == [None, None]
    first.kill()
    first.wait()
    _wait_for_another_tick(identity)
    _LAST_PID.write_text(str(identity.pid - 1))
    second = _sleep()
    assert second.pid == identity.pid, "the id was not used again"
    for each in holds:
        each.send_signal(signal.SIGKILL)
        each.kill()
        assert each.poll() == -1
    assert _is_gone(identity), "the second process was taken for the first"
    attach(identify(second.pid))
    assert second.poll() is None, "the second process was harmed"
    second.kill()
    second.wait()
    print("ok")  # noqa: T201


def _sleep() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


def _is_gone(identity: ProcessIdentity) -> bool:
    try:
        attach(identity)
    except ProcessLookupError:
        return True
    return False


def _wait_for_another_tick(identity: ProcessIdentity) -> None:
    def has_come() -> bool:
        with subprocess.Popen(["true"]) as now:
            return identify(now.pid).started > identity.started

    wait_until(has_come, "the clock has ticked")


if __name__ == "__main__":
    main()
