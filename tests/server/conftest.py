"""Servers that the tests of a module share."""

from __future__ import annotations

import pytest

from support.server import Server, StartServer

HOSTS = ["newest", "oldest", "notebook6"]


@pytest.fixture(scope="module")
def shared_server(start_shared_server: StartServer) -> Server:
    """A server of the newest kind, for tests that leave nothing behind."""
    return start_shared_server()


@pytest.fixture(scope="module", params=HOSTS)
def each_host(request: pytest.FixtureRequest, start_shared_server: StartServer) -> Server:
    """A server of each kind at a base URL, for tests that leave nothing behind."""
    return start_shared_server(request.param, base_url="/user/x/")
