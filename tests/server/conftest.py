"""Servers of several modules, and how they are made to fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.failpoints import EXTENSION, Failpoints
from support.gateway import GATEWAYS, Gateway, running_gateway
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


@pytest.fixture(params=GATEWAYS)
def small_gateway(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Gateway]:
    """A gateway that runs one kernel at most."""
    for name in ("KG_MAX_KERNELS", "EG_MAX_KERNELS"):
        monkeypatch.setenv(name, "1")
    with running_gateway(request.param, tmp_path / "gateway") as gateway:
        yield gateway


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path / 'sessions.db'}"
