"""Servers of several modules, and how they are made to fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.failpoints import EXTENSION, Failpoints
from support.server import Server, StartServer, servers_in

HOSTS = ["newest", "oldest", "notebook6"]


@pytest.fixture(scope="session", params=HOSTS)
def each_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each kind at a base URL, for tests that leave nothing behind."""
    with servers_in(tmp_path_factory.mktemp(request.param)) as start:
        yield start(request.param, base_url="/user/x/")


@pytest.fixture(scope="module")
def shared(start_shared_server: StartServer) -> Server:
    """A server with failpoints, for all tests of a module."""
    server = start_shared_server(start=False, extensions=EXTENSION)
    server.environment.update(Failpoints(server.folder / "failpoints").environment)
    return server.start()


@pytest.fixture
def failpoints(server: Server) -> Failpoints:
    """The failpoints of the module's ``server``."""
    return Failpoints(server.folder / "failpoints")
