"""Reuses a process id, and checks that the second process is not mistaken for the first.

It runs as process 1 of its own pid namespace, where it can choose the next process id. Its
argument is the identity of a process outside that namespace.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from nbsessions.registry import process
from nbsessions.registry.process import ProcessIdentity, attach, identify
from support.waiting import wait_until

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def main() -> None:
    """Run the checks, and print ``ok`` if all of them pass."""
    outside = msgspec.json.decode(sys.argv[1], type=ProcessIdentity)
    assert _is_gone(outside), "a process of another namespace was found"
    first = _sleep()
    identity = identify(first.pid)
    attached = [each(identity) for each in (process._PidfdProcess, process._PsutilProcess)]
    assert [each.poll() for each in attached] == [None, None]
    first.kill()
    first.wait()
    _wait_for_another_tick(identity)
    _LAST_PID.write_text(str(identity.pid - 1))
    second = _sleep()
    assert second.pid == identity.pid, "the id was not reused"
    for each in attached:
        each.send_signal(signal.SIGKILL)
        each.kill()
        assert each.poll() == -1
    assert _is_gone(identity), "the second process was mistaken for the first"
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
