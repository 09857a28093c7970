"""Pages with jupyter-collaboration, which loads documents from disk again after a crash."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from playwright.sync_api import BrowserContext

from support.browser import LAB_CONFIG, LabPage, open_lab, write_notebook
from support.server import Server, StartServer
from support.waiting import wait_until

PATH = "a.ipynb"
COUNTING = """
import os, time
i = -1
while not os.path.exists("enough"):
    i += 1
    print(i, flush=True)
    time.sleep(0.3)
"""
EXTENSIONS = (
    "jupyterlab",
    "jupyter_collaboration",
    "jupyter_server_fileid",
    "jupyter_server_ydoc",
)


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(
        "collaboration",
        # Documents are saved only when a test says so, and not a second after each change.
        config={**LAB_CONFIG, "YDocExtension": {"document_save_delay": None}},
        extensions=dict.fromkeys(EXTENSIONS, True),
    )


@pytest.fixture
def lab(context: BrowserContext, server: Server) -> LabPage:
    return open_lab(context, server)


def test_a_running_cell_keeps_what_it_has_shown_and_goes_on(lab: LabPage, server: Server) -> None:
    write_notebook(server, PATH, [COUNTING])
    notebook = lab.open_notebook(PATH)
    notebook.run(0)
    notebook.wait_for_text(0, "\n3\n")
    server.kill()
    time.sleep(3)
    before = numbers(notebook.text(0))
    server.start(again=True)
    notebook.wait_for_reconnect()
    for _ in range(2):
        # First what was kept for the page, then what is printed now.
        notebook.wait_for_more(0)
    (server.root_dir / "enough").touch()
    notebook.wait_for_end(0)

    total = int(notebook.execute("i")) + 1
    shown = numbers(notebook.text(0))
    assert shown[: len(before)] == before == list(range(len(before)))
    first_after = shown[len(before)]
    assert shown[len(before) :] == list(range(first_after, total)), (
        "nothing twice, nothing left out"
    )
    assert notebook.execution_count(0) == 1


def has_received(server: Server, text: str) -> bool:
    """Return whether the text is in an update of a document that the server has received."""
    with closing(sqlite3.connect(server.folder / ".jupyter_ystore.db")) as connection:
        select = "SELECT EXISTS (SELECT 1 FROM yupdates WHERE instr(yupdate, ?))"
        return bool(connection.execute(select, (text.encode(),)).fetchone()[0])


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.split()]


def test_the_page_says_that_a_document_lost_its_latest_changes(
    lab: LabPage, server: Server
) -> None:
    write_notebook(server, PATH, [])
    notebook = lab.open_notebook(PATH)
    notebook.append("# written just before the crash")
    # A page keeps the changes that it could not send.
    wait_until(lambda: has_received(server, "written just before"), "the server has the change")
    server.kill()
    time.sleep(3)
    server.start(again=True)
    text = lab.wait_for_notification("Back after")
    assert "The latest changes of a.ipynb may be missing." in text
    assert "written just before" not in notebook.source()
