"""Pages that reach the servers of a fleet through nginx."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from playwright.sync_api import BrowserContext

from support.browser import LAB_CONFIG, PAGE_IS_GONE, open_lab, write_notebook
from support.fleet import Fleet, running_fleet
from support.server import Server, StartServer
from support.waiting import wait_until

PATH = "a.ipynb"
NUMBERS = 150
COUNT = f"""
import time
for number in range({NUMBERS}):
    print(number)
    time.sleep(0.1)
"""
BACK_WITHIN = 8.0
"""Seconds that a test allows on a busy machine."""

log = logging.getLogger(__name__)


def test_a_page_goes_on_at_another_server(
    context: BrowserContext, start_server: StartServer, tmp_path: Path
) -> None:
    with running_fleet(
        tmp_path / "fleet", start_server, host_name="lab", config=LAB_CONFIG
    ) as fleet:
        for server in fleet.servers:
            server.allow_errors(PAGE_IS_GONE)
        write_notebook(fleet.servers[0], PATH, ["x = 42", COUNT])
        lab = open_lab(context, fleet.balancer)
        notebook = lab.open_notebook(PATH)
        notebook.run(0)
        notebook.wait_for_end(0)
        notebook.run(1)
        notebook.wait_for_text(1, "3\n")
        connection = notebook.connection()
        lab.record_connections()

        serving_server(fleet, connection.kernel_id).kill()
        killed = time.time()
        delay = lab.wait_for_connections() - killed
        assert delay < BACK_WITHIN
        notebook.wait_for_end(1)

        shown = [int(line) for line in notebook.text(1).split()]
        log.info("connected after %.2f s, %d of %d lines", delay, len(shown), NUMBERS)
        assert shown[-1] == NUMBERS - 1
        assert notebook.connection() == connection
        assert notebook.execute("x") == "42"
        assert lab.dialogs() == []


def serving_server(fleet: Fleet, kernel_id: str) -> Server:
    """Return the server that the page's last websocket to the kernel goes through."""

    def connections() -> list[tuple[str, Server]]:
        # A line begins with its time.
        return [
            (line, server)
            for server in fleet.servers
            for line in server.log_lines("I", f"Connecting to ws://.*{kernel_id}")
        ]

    lines = wait_until(connections, "a server is connected to the kernel")
    return max(lines, key=lambda each: each[0])[1]
