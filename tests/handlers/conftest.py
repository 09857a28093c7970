"""Serves the REST API in an application that is not a Jupyter server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application

from nbsessions.async_sessionmanager import AsyncSessionManager
from support.application import Api, make_application
from support.hosts import make_contents_manager, make_kernel_manager


@pytest.fixture
def session_manager(io_loop: Any, tmp_path: Path) -> Iterator[Any]:
    """A session manager over real kernels; a test module may have another."""
    kernel_manager = make_kernel_manager(tmp_path)
    manager = AsyncSessionManager(
        kernel_manager=kernel_manager, contents_manager=make_contents_manager(tmp_path)
    )
    yield manager
    io_loop.run_sync(lambda: kernel_manager._async_shutdown_all(now=True))
    manager.close()


@pytest.fixture
def app(session_manager: Any) -> Application:
    """The application that pytest-tornado serves."""
    return make_application(session_manager)


@pytest.fixture
def api(http_client: AsyncHTTPClient, base_url: str) -> Api:
    """A client whose requests go to the application."""
    return Api(http_client, base_url)
