"""Notebook 7, where each notebook is a page of its own."""

from __future__ import annotations

import importlib.util

import pytest
from playwright.sync_api import BrowserContext

from support.browser import (
    NOTEBOOK7_CONFIG,
    PAGE_IS_GONE,
    begin_to_open_notebook7,
    hold_starts,
    write_notebook,
)
from support.server import Server, StartServer

PATH = "a.ipynb"


@pytest.fixture
def server(start_server: StartServer) -> Server:
    if importlib.util.find_spec("notebook") is None:
        pytest.fail("This test needs Notebook 7: pip install 'notebook >= 7'", pytrace=False)
    server = start_server(config=NOTEBOOK7_CONFIG, extensions={"notebook": True})
    server.allow_errors(PAGE_IS_GONE)
    return server


def test_two_pages_that_open_a_notebook_at_once_share_its_kernel(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, [])
    hold_starts(context, 2)
    first, second = (begin_to_open_notebook7(context, server, PATH) for _ in range(2))
    for notebook in (first, second):
        notebook.wait_for_kernel()

    assert server.kernel_ids() == {first.connection().kernel_id}
    first.execute("a = 'from the first'")
    second.execute("b = 'from the second'")
    assert second.execute("a") == "'from the first'"
    assert first.execute("b") == "'from the second'"
    assert {model["path"] for model in server.list_sessions()} == {PATH}
    assert [notebook.lab.dialogs() for notebook in (first, second)] == [[], []]
