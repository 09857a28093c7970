"""Pages that reach their server through nginx."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from support.browser import LAB_CONFIG, PAGE_IS_GONE, open_lab, write_notebook
from support.nginx import running_nginx
from support.server import StartServer

PATH = "a.ipynb"
BACK_WITHIN = 8.0
"""Seconds that a test allows on a busy machine."""

log = logging.getLogger(__name__)


@pytest.mark.parametrize(
    ("base_url", "advised"),
    [("/", True), ("/some/base/", False)],
    ids=["503", "502-base-url"],
)
def test_a_page_is_connected_again(
    context: BrowserContext,
    start_server: StartServer,
    tmp_path: Path,
    base_url: str,
    advised: bool,
) -> None:
    server = start_server("lab", config=LAB_CONFIG, base_url=base_url)
    server.allow_errors(PAGE_IS_GONE)
    write_notebook(server, PATH, ["x = 42"])
    upstream = f"http://127.0.0.1:{server.port}"
    with running_nginx(tmp_path / "nginx", upstream, advised=advised) as url:
        lab = open_lab(context, server.behind(url))
        notebook = lab.open_notebook(PATH)
        notebook.run(0)
        notebook.wait_for_end(0)
        connection = notebook.connection()
        lab.record_connections()

        server.kill()
        time.sleep(3)
        server.start(again=True)
        answered = time.time()
        delay = lab.wait_for_connections() - answered
        log.info("connected after %.2f s", delay)

        assert delay < BACK_WITHIN
        assert "The kernel kept running." in lab.wait_for_notification("Back after")
        assert lab.dialogs() == []
        assert notebook.connection() == connection
        assert notebook.execute("x") == "42"
