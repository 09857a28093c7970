"""Fixtures that every kind of test may use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jupyter_client.connect import LocalPortCache
from tornado.ioloop import IOLoop

from support.gateway import GATEWAYS, Gateway, running_gateway
from support.ports import reserve_ports
from support.postgres import shared_cluster
from support.server import StartServer, servers_in
from support.services import STORES, Bench, running_service
from support.store_processes import OtherProcess, other_process
from support.surviving import Place, Processes, processes

# Slow is no failure, and a run that failed fails again: --hypothesis-profile=random has others.
_profile = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("random", _profile)
settings.register_profile("repeatable", _profile, derandomize=True)
settings.load_profile("repeatable")

reserve_ports(LocalPortCache)


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """Replace pytest-tornado's fixture, which leaves an event loop of the main thread open."""
    loop = IOLoop(make_current=False)
    asyncio.set_event_loop(loop.asyncio_loop)
    yield loop
    # As asyncio.run does. A task that is still pending would be logged during another test.
    if tasks := asyncio.all_tasks(loop.asyncio_loop):
        for task in tasks:
            task.cancel()
        loop.asyncio_loop.run_until_complete(asyncio.wait(tasks))
    asyncio.set_event_loop(None)
    loop.close(all_fds=True)


@pytest.fixture(params=STORES)
def bench(request: pytest.FixtureRequest, tmp_path: Path, io_loop: IOLoop) -> Iterator[Bench]:
    """A service over each kind of store; in the end, it has to come to rest without an ERROR."""
    stack = AsyncExitStack()
    running = running_service(request.param, tmp_path)
    yield io_loop.run_sync(lambda: stack.enter_async_context(running))
    io_loop.run_sync(stack.aclose)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start real servers for one test."""
    with servers_in(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start real servers for all tests of a module."""
    with servers_in(tmp_path_factory.mktemp("shared")) as start:
        yield start


@pytest.fixture(params=GATEWAYS)
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(request.param, tmp_path / "gateway") as gateway:
        yield gateway


@pytest.fixture
def silent_gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A Kernel Gateway as it is by default, which does not list its kernels."""
    with running_gateway("kernel", tmp_path / "gateway", lists=False) as gateway:
        yield gateway


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return shared_cluster().make_schema()
    return f"sqlite://{tmp_path / 'sessions.db'}"


@pytest.fixture
def other() -> Iterator[OtherProcess]:
    """Another process."""
    with other_process() as process:
        yield process


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
def third() -> Iterator[OtherProcess]:
    """Yet another process."""
    with other_process() as process:
        yield process
