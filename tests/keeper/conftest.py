"""Fixtures for the tests of the keeper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbsessions.keeper.spool import Spool
from nbsessions.private import PrivateFolder
from support.keepers import FakeKernel, RunningKeeper, Server
from support.spools import KERNEL, Story
from support.surviving import Place


@pytest.fixture
def folder(tmp_path: Path) -> PrivateFolder:
    """A folder for spools or marks."""
    made = PrivateFolder(tmp_path / "files")
    made.make()
    return made


@pytest.fixture
def spool(folder: PrivateFolder) -> Iterator[Spool]:
    """A spool that keeps 100 kB."""
    made = Spool(folder, KERNEL, 100_000)
    yield made
    made.close()


@pytest.fixture
def story(spool: Spool) -> Story:
    """What a kernel says into the spool."""
    return Story(spool)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[RunningKeeper]:
    """A keeper that is started by the test, or by a server."""
    made = RunningKeeper(tmp_path)
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A live server in this process."""
    made = Server(tmp_path)
    yield made
    made.close()


@pytest.fixture
def make_kernel(place: Place) -> Iterator[Callable[..., FakeKernel]]:
    """Makes kernels."""
    made: list[FakeKernel] = []

    def make(server_id: str = "no-server", **limits: int) -> FakeKernel:
        made.append(FakeKernel(place, server_id, **limits))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def kernel(
    keeper: RunningKeeper, server: Server, make_kernel: Callable[..., FakeKernel]
) -> FakeKernel:
    """A kernel of the server, which a keeper listens to."""
    made = make_kernel(server.servers.server_id)
    server.link.watch(made.kernel_id)
    made.wait_for_keeper()
    server.link.flush(made.kernel_id).result(30)
    return made
