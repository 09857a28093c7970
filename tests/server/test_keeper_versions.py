"""Servers and keepers of several releases: a keeper is replaced without a loss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from support.cli import CommandLine
from support.keepers import RunningKeeper
from support.printing import Reader, everyone_reading
from support.server import Server, StartServer
from support.waiting import wait_until

UPGRADES = int(os.environ.get("UPGRADES", "3"))
EARLY = -20
TIMEOUT = 240
"""Seconds. The slow client first reads the megabytes that its socket has accepted."""
CONFIG: dict[str, dict[str, Any]] = {
    "ZMQChannelsWebsocketConnection": {"limit_rate": False},
    "SurvivingKernels": {"output_limit": 200_000_000},
}


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """A server of an early release."""
    made = start_server(start=False, config=CONFIG, measured=False)
    made.environment["KEEPER_PROTOCOL"] = str(EARLY)
    return made.start()


def keeper_of(server: Server) -> RunningKeeper:
    return RunningKeeper(server.runtime_dir / "nbsessions")


def wait_for_keeper(server: Server, version: int) -> None:
    def is_there() -> bool:
        try:
            return bool(keeper_of(server).status()["version"] == version)
        except OSError:
            return False

    wait_until(is_there, f"there is a keeper of version {version}")


def upgrade(server: Server) -> None:
    """Start the server's next release in its place, and wait for its keeper."""
    version = int(server.environment["KEEPER_PROTOCOL"]) + 1
    server.environment["KEEPER_PROTOCOL"] = str(version)
    server.kill()
    server.start(again=True)
    wait_for_keeper(server, version)


def wait_for_return(readers: Sequence[Reader], before: Sequence[int]) -> None:
    """Wait until all clients are connected again, and read what the kernel has printed."""
    wait_until(
        lambda: all(each.connections > then for each, then in zip(readers, before, strict=True)),
        "all are connected again",
        timeout=TIMEOUT,
    )
    read = [len(each.messages) for each in readers]
    wait_until(
        lambda: all(len(each.messages) > then for each, then in zip(readers, read, strict=True)),
        "all read again",
    )


def printing(server: Server) -> AbstractContextManager[Sequence[Reader]]:
    return everyone_reading(server, flush=100, pause=0.01, timeout=TIMEOUT)


def test_every_line_reaches_every_client_once_over_upgrades(server: Server) -> None:
    with printing(server) as readers:
        for _ in range(UPGRADES):
            before = [each.connections for each in readers]
            upgrade(server)
            wait_for_return(readers, before)


def test_clients_that_are_away_meanwhile_get_every_line_once(server: Server) -> None:
    with printing(server) as readers:
        for _ in range(3):
            for each in readers:
                each.go_away()
            upgrade(server)
            for each in readers:
                each.come_back()


def test_a_server_goes_on_with_the_keeper_of_a_later_release(server: Server) -> None:
    with printing(server):
        keeper = keeper_of(server)
        newer = keeper.start_version(EARLY + 7)
        wait_until(lambda: is_known(server), "the server is connected again")
        server.kill()
        server.start(again=True)
        wait_until(lambda: is_known(server), "the next server is connected")
        assert keeper.pid() == newer
    del server.environment["KEEPER_PROTOCOL"]
    shown = CommandLine(server)("keeper")
    assert shown.status == 0
    assert f"with version {EARLY + 7} of the protocol" in shown.out
    assert "It is of an earlier release. The next server of this release" in shown.err


def is_known(server: Server) -> bool:
    """Return whether the keeper knows a connected client of the server."""
    (kernel,) = keeper_of(server).status()["kernels"].values()
    return bool(kernel["clients"] > kernel["away"])
