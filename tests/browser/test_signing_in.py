"""Pages whose server comes back, and may not know them any more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import BrowserContext, Page

from support.browser import CONNECTION_LOST, SIGN_IN, NotebookPage, open_lab, write_notebook
from support.server import Server
from support.waiting import wait_until

PATH = "a.ipynb"


def fill_in_form(page: Page, server: Server) -> None:
    page.locator("#password_input").fill(server.token)
    page.locator("#login_submit").click()


def open_notebook(context: BrowserContext, server: Server, *, with_token: bool) -> NotebookPage:
    write_notebook(server, PATH, ["x = 42"])
    notebook = open_lab(context, server, with_token=with_token).open_notebook(PATH)
    notebook.run(0)
    notebook.wait_for_end(0)
    return notebook


@contextmanager
def check_that_it_is_connected_again(notebook: NotebookPage) -> Iterator[None]:
    connection = notebook.connection()
    yield
    lab = notebook.lab
    lab.wait_for_notification("Back after")
    wait_until(lambda: lab.notifications(SIGN_IN) == [], "nothing asks to sign in")
    assert lab.dialogs() == []
    assert notebook.connection() == connection
    assert notebook.execute("x") == "42"


def lose_cookies(server: Server) -> None:
    """Make the cookies of a server invalid for its next start."""
    (server.runtime_dir / "jupyter_cookie_secret").unlink()


def start_again(server: Server) -> None:
    """Start the server after an absence that is worth a word."""
    time.sleep(2)
    server.start(again=True)


def test_a_page_with_the_token_needs_no_cookie(context: BrowserContext, server: Server) -> None:
    notebook = open_notebook(context, server, with_token=True)
    with check_that_it_is_connected_again(notebook):
        server.kill()
        lose_cookies(server)
        start_again(server)


def test_a_page_with_a_cookie_needs_no_token(context: BrowserContext, server: Server) -> None:
    page = context.new_page()
    page.goto(server.page_url("/login", with_token=False))
    fill_in_form(page, server)
    page.wait_for_url("**/lab")
    page.close()
    notebook = open_notebook(context, server, with_token=False)
    with check_that_it_is_connected_again(notebook):
        server.kill()
        server.token = "another"
        start_again(server)


def test_a_page_is_connected_again_when_its_user_has_signed_in(
    context: BrowserContext, server: Server
) -> None:
    notebook = open_notebook(context, server, with_token=True)
    lab = notebook.lab
    with check_that_it_is_connected_again(notebook):
        server.kill()
        notebook.refresh()
        wait_until(lambda: lab.dialogs() == [CONNECTION_LOST], "the dialog is there")
        server.token = "another"
        lose_cookies(server)
        start_again(server)
        lab.wait_for_notification(SIGN_IN)
        assert len(lab.notifications(SIGN_IN)) == 1
        with context.expect_page() as tab:
            lab.choose("Sign in")
        fill_in_form(tab.value, server)

    notebook.append("written afterwards")
    notebook.begin_to_save()
    file = server.root_dir / PATH
    wait_until(lambda: "written afterwards" in file.read_text(), "the notebook is saved")
