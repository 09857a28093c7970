"""Servers that several modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.server import Server, servers_in

HOSTS = ["newest", "oldest", "notebook6"]


@pytest.fixture(scope="session", params=HOSTS)
def each_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each kind at a base URL, for tests that leave nothing behind."""
    with servers_in(tmp_path_factory.mktemp(request.param)) as start:
        yield start(request.param, base_url="/user/x/")
