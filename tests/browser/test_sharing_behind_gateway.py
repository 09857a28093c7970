"""Two pages at two servers of one gateway that open a notebook at the same moment.

``SHARING_ROUNDS`` in the environment sets how often they do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from support.browser import LAB_CONFIG, PAGE_IS_GONE, open_lab, write_notebook
from support.gateway import Gateway, running_gateway
from support.gateway_servers import start_behind
from support.server import StartServer
from support.waiting import wait_until

ROUNDS = int(os.environ.get("SHARING_ROUNDS", "3"))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway("kernel", tmp_path / "gateway") as gateway:
        yield gateway


def test_two_pages_at_two_servers_share_the_kernel_of_a_notebook(
    context: BrowserContext, start_server: StartServer, gateway: Gateway, tmp_path: Path
) -> None:
    root = tmp_path / "notebooks"
    url = f"sqlite://{tmp_path / 'sessions.db'}"
    servers = [
        start_behind(start_server, gateway, url, "lab", options={"root_dir": root}, **LAB_CONFIG)
        for _ in range(2)
    ]
    for server in servers:
        server.allow_errors(PAGE_IS_GONE)
        # The server logs that about a kernelspec of the gateway that has no such logo.
        server.allow_errors("Could not open static file")
    pages = [open_lab(context, server) for server in servers]
    for number in range(ROUNDS):
        path = f"{number}.ipynb"
        write_notebook(servers[0], path, [])
        notebooks = [page.begin_to_open(path) for page in pages]
        for notebook in notebooks:
            notebook.wait_for_kernel()

        first, second = notebooks
        kernel_id = first.connection().kernel_id
        assert second.connection().kernel_id == kernel_id
        first.execute("a = 'from the first'")
        second.execute("b = 'from the second'")
        assert second.execute("a") == "'from the first'"
        assert first.execute("b") == "'from the second'"
        assert len(gateway.kernel_processes()) == 1
        for server in servers:
            assert {model["path"] for model in server.list_sessions()} == {path}
            # With more than one, the gateway may lose replies.
            assert len(server.log_lines("I", f"Connecting to ws:.*{kernel_id}/")) == 1
        assert [page.dialogs() for page in pages] == [[], []]
        for model in servers[0].list_sessions():
            servers[1].delete(model["id"])
        gateway.wait_for_kernels(0)
        wait_until(lambda: servers[0].list_sessions() == [], "no session is left")
