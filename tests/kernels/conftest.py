"""Fixtures for the tests of local kernels: processes and runtime directories."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store_processes import OtherProcess, other_process
from support.surviving import Place, Processes, processes


@pytest.fixture
def spawn() -> Iterator[Processes]:
    """Starts processes and ends them after the test."""
    with processes() as started:
        yield started


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A runtime directory."""
    made = Place(tmp_path)
    yield made
    made.servers.unregister(kernels_left=False)
    for thread in threading.enumerate():
        if thread.name == "nbsessions-ending":
            thread.join(60)


@pytest.fixture
def other() -> Iterator[OtherProcess]:
    """Another process."""
    with other_process() as process:
        yield process


@pytest.fixture
def third() -> Iterator[OtherProcess]:
    """Yet another process."""
    with other_process() as process:
        yield process
