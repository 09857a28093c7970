"""Pages of a server that JupyterHub has started for a user."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext

from support.browser import (
    LAB_CONFIG,
    PAGE_IS_GONE,
    SIGN_IN,
    LabPage,
    NotebookPage,
    write_notebook_file,
)
from support.hub import Hub, hubs_in
from support.waiting import wait_until

USER = "ada"
PATH = "a.ipynb"
OFFER = "Server unavailable or unreachable"
"""The title of the dialog that offers to start the server again."""
BACK_WITHIN = 10.0
"""Seconds that a test allows on a busy machine."""
QUIET = {"ServerApp": {"jpserver_extensions": dict.fromkeys(["jupyter_lsp", "notebook"], False)}}
"""Leaves out what only makes the server start later."""

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a server of the user, who has a notebook."""
    with hubs_in(tmp_path_factory.mktemp("hubs")) as start_hub:
        hub = start_hub()
        hub.allow_errors(PAGE_IS_GONE)
        config_dir = hub.home(USER) / ".jupyter"
        config_dir.mkdir()
        (config_dir / "jupyter_lab_config.json").write_text(json.dumps(LAB_CONFIG))
        (config_dir / "jupyter_server_config.json").write_text(json.dumps(QUIET))
        write_notebook_file(hub.home(USER) / PATH, ["x = 42"])
        hub.start_user_server(USER)
        yield hub


def open_notebook(context: BrowserContext, hub: Hub) -> NotebookPage:
    """Sign in, open the notebook, and run its cell."""
    page = context.new_page()
    hub.log_in_page(page, USER)
    lab = LabPage(page)
    lab.wait_for_lab()
    notebook = lab.open_notebook(PATH)
    notebook.run(0)
    notebook.wait_for_end(0)
    return notebook


def wait_for_offer(notebook: NotebookPage) -> None:
    notebook.refresh()
    wait_until(lambda: notebook.lab.dialogs() == [OFFER], "the page offers to start the server")


def test_a_page_is_connected_when_its_server_is_started_again(
    context: BrowserContext, hub: Hub
) -> None:
    notebook = open_notebook(context, hub)
    lab, connection = notebook.lab, notebook.connection()
    lab.record_connections()

    hub.kill_user_server(USER)
    hub.wait_for_end(USER)
    wait_for_offer(notebook)
    hub.start_user_server(USER)
    answered = time.time()
    delay = lab.wait_for_connections() - answered
    log.info("connected after %.2f s", delay)

    assert delay < BACK_WITHIN
    assert "The kernel kept running." in lab.wait_for_notification("Back after")
    assert lab.dialogs() == []
    assert lab.notifications(SIGN_IN) == []
    assert notebook.connection() == connection
    assert notebook.execute("x") == "42"


def test_a_page_is_connected_when_its_user_has_signed_in_to_the_hub_again(
    context: BrowserContext, hub: Hub
) -> None:
    notebook = open_notebook(context, hub)
    lab, connection = notebook.lab, notebook.connection()

    hub.kill_user_server(USER)
    hub.wait_for_end(USER)
    context.clear_cookies()
    hub.start_user_server(USER)
    lab.wait_for_notification(SIGN_IN)
    with context.expect_page() as tab:
        lab.choose("Sign in")
    hub.fill_in_form(tab.value, USER)

    lab.wait_for_notification("Back after")
    wait_until(lambda: lab.notifications(SIGN_IN) == [], "nothing asks to sign in")
    assert notebook.connection() == connection
    assert notebook.execute("x") == "42"


def test_the_page_says_that_the_hub_has_stopped_the_server(
    context: BrowserContext, hub: Hub
) -> None:
    notebook = open_notebook(context, hub)
    hub.stop_user_server(USER)
    wait_for_offer(notebook)
    hub.start_user_server(USER)
    text = notebook.lab.wait_for_notification("Back after")
    assert "The kernel of a.ipynb was shut down with the server" in text
    assert notebook.lab.dialogs() == []
