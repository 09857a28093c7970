"""Since when servers are dead, as far as a keeper knows."""

from __future__ import annotations

import os
import time

import pytest

from nbsessions.keeper import reaping
from nbsessions.keeper.reaping import Silence
from support.store_processes import OtherProcess
from support.surviving import Place, register_server


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(reaping, "time", made)
    return made


def set_last_sign(place: Place, server_id: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(place.folder / "servers" / f"{server_id}.lock", (then, then))


def test_a_server_is_silent_since_it_was_last_seen_alive(
    place: Place, other: OtherProcess, clock: Clock
) -> None:
    server_id = other.ask(register_server, place.folder / "servers")
    silence = Silence(place.servers)
    assert silence.find_dead() == set()
    # The file may be older than what this process has seen.
    set_last_sign(place, server_id, 500)
    clock.now += 3
    assert silence.find_dead() == set()
    other.kill()
    clock.now += 5
    assert silence.find_dead() == {server_id}
    assert silence.of(server_id) == 5
    clock.now += 7
    assert silence.find_dead() == {server_id}
    assert silence.of(server_id) == 12


def test_the_file_tells_since_when_a_server_is_dead_that_was_not_seen_alive(
    place: Place, clock: Clock
) -> None:
    server_id = place.dead_server()
    set_last_sign(place, server_id, 500)
    silence = Silence(place.servers)
    assert silence.find_dead() == {server_id}
    assert 500 <= silence.of(server_id) < 510
    # The machine was asleep. Only the clock of the files goes on.
    set_last_sign(place, server_id, 9000)
    clock.now += 2
    assert silence.find_dead() == {server_id}
    assert 502 <= silence.of(server_id) < 512


def test_servers_that_are_gone_are_forgotten(place: Place, clock: Clock) -> None:
    server_id = place.dead_server()
    silence = Silence(place.servers)
    assert silence.find_dead() == {server_id}
    assert silence.of(server_id) < 10
    place.servers.forget(server_id)
    assert silence.find_dead() == set()
    assert silence.of(server_id) == 0
