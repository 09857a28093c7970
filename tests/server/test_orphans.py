"""Kernels that no server takes over are ended in time, although no server starts again."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from support.server import Server, StartServer
from support.waiting import wait_until

TIMEOUT, GRACE = 4.0, 8.0
"""Seconds: until kernels are orphans for too long, and within which they have ended then."""


def with_kernels(start_server: StartServer, **settings: Any) -> Server:
    """Return a server with two kernels that are kept."""
    server = start_server(config={"SurvivingKernels": settings})
    server.create("a.ipynb", "light")
    server.create("b.ipynb", "python3")
    wait_until(server.keeper_process, "the keeper runs")
    return server


@pytest.mark.parametrize("keep_output", [True, False])
def test_orphans_and_then_the_keeper_end_by_themselves(
    start_server: StartServer, keep_output: bool
) -> None:
    server = with_kernels(start_server, orphan_timeout=TIMEOUT, keep_output=keep_output)
    server.kill()
    killed = time.monotonic()
    while time.monotonic() < killed + TIMEOUT - 1:
        assert len(server.kernel_processes()) == 2
    server.wait_for_kernels(0)
    assert time.monotonic() - killed < TIMEOUT + GRACE
    wait_until(lambda: server.keeper_process() is None, "the keeper has ended")
    assert server.registry_files() == []


def test_a_server_that_is_back_in_time_keeps_them(start_server: StartServer) -> None:
    # So long that a server starts in time on a busy machine.
    timeout = 15.0
    server = with_kernels(start_server, orphan_timeout=timeout)
    before = set(server.kernel_processes())
    server.kill()
    killed = time.monotonic()
    server.start()
    while time.monotonic() < killed + timeout + 2:
        assert set(server.kernel_processes()) == before
    assert len(server.list_sessions()) == 2


def test_the_setting_of_their_own_server_counts(start_server: StartServer) -> None:
    server = with_kernels(start_server, orphan_timeout=None)
    server.kill()
    impatient = start_server(
        config={"SurvivingKernels": {"orphan_timeout": 0.0}},
        environment={"JUPYTER_RUNTIME_DIR": str(server.runtime_dir)},
    )
    impatient.create("c.ipynb", "light")
    time.sleep(3)
    assert len(server.kernel_records()) == 3
    impatient.kill()
    wait_until(lambda: len(server.kernel_records()) == 2, "its own kernel is ended at once")
    time.sleep(2)
    assert len(server.kernel_records()) == 2


def test_a_stop_that_is_cut_short_is_finished_at_once(start_server: StartServer) -> None:
    server = with_kernels(start_server)
    server.create("c.ipynb", "stubborn")
    server.terminate()
    wait_until(lambda: list(server.runtime_dir.glob("nbsessions/servers/*.ending")), "it stops")
    server.signal(signal.SIGKILL)
    killed = time.monotonic()
    server.wait_for_kernels(0)
    assert time.monotonic() - killed < 2 * GRACE


def test_with_neither_half_there_is_no_keeper(start_server: StartServer) -> None:
    server = start_server(
        config={"SurvivingKernels": {"orphan_timeout": None, "keep_output": False}}
    )
    model = server.create("a.ipynb", "python3")
    assert server.execute(model["kernel"]["id"], "6 * 7") == "42"
    assert server.keeper_process() is None
    server.kill()
    server.start()
    assert server.execute(model["kernel"]["id"], "6 * 7") == "42"
    assert server.keeper_process() is None
