"""Pages whose server goes away and comes back."""

from __future__ import annotations

import logging
import os
import time

import pytest
from playwright.sync_api import BrowserContext, Request

from support.browser import (
    CONNECTION_LOST,
    PAGES,
    open_lab,
    open_page,
    start_again_later,
    start_page_server,
    write_notebook,
)
from support.server import Server, StartServer
from support.waiting import wait_until

PATH = "a.ipynb"
log = logging.getLogger(__name__)

# For figures: AWAY=2,20,60,180 AWAY_ROUNDS=10 pytest --log-cli-level=INFO … -k at_once
AWAY = [float(each) for each in os.environ.get("AWAY", "2").split(",")]
ROUNDS = int(os.environ.get("AWAY_ROUNDS", "1"))
BACK_WITHIN = 15.0
"""Seconds that a test allows on a busy machine. Without the extension, it takes up to 30."""


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_page_server(start_server, "lab")


def collect_requests(context: BrowserContext, *parts: str) -> list[str]:
    """Collect the URLs that contain one of these parts and that pages request from now on."""
    urls: list[str] = []

    def note(request: Request) -> None:
        if any(part in request.url for part in parts):
            urls.append(request.url)

    context.on("request", note)
    return urls


# The return


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_connected_again_at_once(
    context: BrowserContext, start_server: StartServer, kind: str
) -> None:
    server = start_page_server(start_server, kind)
    write_notebook(server, PATH, ["count = 0", "count += 1; count"])
    requests = collect_requests(context, "nbsessions", "/api/sessions/status")
    notebook = open_page(context, server, kind, PATH)
    notebook.run(0)
    notebook.wait_for_end(0)
    connection = notebook.connection()
    assert len(requests) == 1, "the extension itself, and nothing while all is well"
    assert notebook.has_private_method(), (
        f"{notebook.lab.version()} has no KernelConnection._updateStatus, which report.js uses to "
        "show the states of kernels"
    )

    for count, away in enumerate(AWAY * ROUNDS, start=1):
        notebook.lab.record_connections()
        server.kill()
        start_again_later(server, away)
        answered = time.time()
        delay = notebook.lab.wait_for_connections() - answered
        log.info("%s: away for %.0f s, connected after %.2f s", kind, away, delay)
        assert delay < BACK_WITHIN
        notebook.wait_for_kernel()  # shows that it is idle, before another cell runs
        notebook.run(1)
        notebook.wait_for_text(1, str(count))
        notebook.wait_for_end(1)
        assert notebook.text(1) == str(count)
        assert notebook.connection() == connection
        assert notebook.lab.running_kernels() == [connection.kernel_id]
        assert notebook.lab.dialogs() == []
    assert [model["id"] for model in server.list_sessions()] == [connection.session_id]


def test_a_page_with_many_documents_two_tabs_and_a_tab_in_the_background(
    context: BrowserContext, start_server: StartServer
) -> None:
    server = start_page_server(start_server, "lab", jupyter_server_terminals=True)
    names = [f"{number}.ipynb" for number in range(5)]
    for name in names:
        write_notebook(server, name, [])
    first, background, second = (open_lab(context, server) for _ in range(3))
    notebooks = [first.open_notebook(name) for name in names]
    notebooks[0].open_console()
    first.open_console("work")
    first.open_terminal()
    others = [tab.open_notebook(names[0]) for tab in (background, second)]
    first.look_at()
    for number, notebook in enumerate(notebooks):
        notebook.execute(f"x = {number}")
    tabs = (first, background, second)
    for tab in tabs:
        tab.record_connections()

    server.kill()
    start_again_later(server)
    answered = time.time()
    for tab in tabs:
        delay = tab.wait_for_connections() - answered
        log.info("connected after %.2f s", delay)
        assert delay < BACK_WITHIN
    text = first.wait_for_notification("Back after")

    assert "The kernels kept running." in text
    assert len(first.notifications("Back after")) == 1
    for number, notebook in enumerate(notebooks):
        assert notebook.execute("x") == str(number)
    for other in others:
        other.lab.look_at()
        assert other.execute("x") == "0"
    assert [tab.dialogs() for tab in tabs] == [[], [], []]
    assert len(server.kernel_ids()) == 6


def test_the_dialog_goes_by_itself(context: BrowserContext, server: Server) -> None:
    write_notebook(server, PATH, [])
    notebook = open_lab(context, server).open_notebook(PATH)
    server.kill()
    notebook.refresh()
    wait_until(lambda: notebook.lab.dialogs() == [CONNECTION_LOST], "the dialog is there")
    server.start(again=True)
    wait_until(lambda: notebook.lab.dialogs() == [], "the dialog is gone")


def test_a_document_that_could_not_be_saved_is_saved_afterwards(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, [])
    notebook = open_lab(context, server).open_notebook(PATH)
    server.kill()
    notebook.append("written while the server was away")
    notebook.begin_to_save()
    wait_until(notebook.lab.dialogs, "the page says that it could not save")
    server.start(again=True)
    file = server.root_dir / PATH
    wait_until(lambda: "written while" in file.read_text(), "the notebook is saved")
    wait_until(lambda: notebook.lab.dialogs() == [], "the dialog is gone")


# When it has little or nothing to do

HIDE = """isHidden => {
    Object.defineProperty(document, "hidden", {value: isHidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""
SIX_MINUTES_LATER = """() => {
    const now = Date.now;
    Date.now = () => now() + 6 * 60 * 1000;
}"""


def test_a_page_that_was_hidden_for_long_asks_seldom_until_somebody_looks(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, [])
    notebook = open_lab(context, server).open_notebook(PATH)
    requests = collect_requests(context, "/api/sessions/status")
    notebook.lab.page.evaluate(HIDE, True)
    notebook.lab.page.evaluate(SIX_MINUTES_LATER)
    server.kill()
    notebook.wait_for_loss()
    notebook.lab.page.wait_for_timeout(5_000)
    # The first one finds out that the server is away. Others would come four times a second.
    assert 1 <= len(requests) <= 3
    server.start(again=True)
    notebook.lab.page.evaluate(HIDE, False)
    notebook.wait_for_kernel()
    assert notebook.execute("1") == "1"


def test_where_it_is_disabled_the_page_behaves_as_without_it(
    context: BrowserContext, start_server: StartServer
) -> None:
    server = start_page_server(start_server, "lab", start=False)
    labconfig = server.config_dir / "labconfig"
    labconfig.mkdir()
    (labconfig / "page_config.json").write_text('{"disabledExtensions": {"nbsessions": true}}')
    server.start()
    check_that_it_does_nothing(context, server)


def test_on_a_server_without_our_session_manager_it_does_nothing(
    context: BrowserContext, start_server: StartServer
) -> None:
    server = start_page_server(start_server, "lab", nbsessions=False)
    check_that_it_does_nothing(context, server)


def check_that_it_does_nothing(context: BrowserContext, server: Server) -> None:
    write_notebook(server, PATH, [])
    notebook = open_lab(context, server).open_notebook(PATH)
    requests = collect_requests(context, "/api/sessions/status")
    server.kill()
    # JupyterLab's own dialog is there, and stays until somebody closes it.
    notebook.refresh()
    wait_until(lambda: notebook.lab.dialogs() == [CONNECTION_LOST], "the dialog is there")
    server.start(again=True)
    notebook.lab.close_dialog(CONNECTION_LOST)
    assert requests == []
    native = "() => jupyterapp.serviceManager.serverSettings.WebSocket === WebSocket"
    assert notebook.lab.page.evaluate(native)
