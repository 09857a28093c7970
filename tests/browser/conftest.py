"""A browser for all tests of a module, and a JupyterLab for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext

from support.browser import LAB_CONFIG, NOTEBOOK7_CONFIG, PAGE_IS_GONE, running_browser
from support.gaps import ROUNDS, Gap
from support.pagelog import PageLog
from support.server import Server, StartServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A browser's profile: its tabs share cookies, and nothing with those of other tests."""
    with browser.new_context() as context:
        # JupyterLab looks for a lost kernel again after 10 to 30 seconds, each time.
        context.set_default_timeout(90_000)
        log = PageLog(context)
        yield context
        # pytest shows it if the test has failed.
        request.node.add_report_section("teardown", "pages", log.text())


@pytest.fixture
def start_server(start_server: StartServer) -> StartServer:
    """Start servers that are not measured. Other tests run the same code, and need less time."""

    def start_unmeasured(*arguments: str, **options: Any) -> Server:
        return start_server(*arguments, measured=False, **options)

    return start_unmeasured


@pytest.fixture
def server(start_server: StartServer) -> Server:
    server = start_server("lab", config=LAB_CONFIG)
    server.allow_errors(PAGE_IS_GONE)
    return server


@pytest.fixture(scope="module")
def shared_server(start_shared_server: StartServer) -> Server:
    """A server with JupyterLab and Notebook 7, for all tests of a module."""
    server = start_shared_server(
        config={**LAB_CONFIG, **NOTEBOOK7_CONFIG},
        extensions={"jupyterlab": True, "notebook": True},
        measured=False,
    )
    server.allow_errors(PAGE_IS_GONE)
    return server


@pytest.fixture(params=range(ROUNDS), ids="round {}".format)
def gap(
    shared_server: Server, context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Gap]:
    """A gap for one test, in each of the rounds."""
    gap = Gap(shared_server, request.param)
    yield gap
    # Before the context is closed, because the server logs an error if a kernel still says
    # something to a page that has just gone.
    gap.close()
