"""A server that is killed and started again: what goes on in the pages of its users."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import BrowserContext

from support.browser import CONNECTION_LOST, NotebookPage, open_lab, write_notebook
from support.console import attached_console
from support.server import Server
from support.waiting import wait_until

PATH = "a.ipynb"
COUNTING = """
import os, time
x = 42
total = 0
left = 5
while left:
    left -= os.path.exists("enough")
    print(total, flush=True)
    total += 1
    time.sleep(0.2)
"""
"""Prints numbers, and five more once there is a file."""


def open_notebook(context: BrowserContext, server: Server, *sources: str) -> NotebookPage:
    write_notebook(server, PATH, sources)
    return open_lab(context, server).open_notebook(PATH)


def open_counting(context: BrowserContext, server: Server) -> NotebookPage:
    """Open a notebook whose first cell is counting."""
    notebook = open_notebook(context, server, COUNTING)
    wait_until(lambda: recorded_clients(server), "its connection is recorded")
    notebook.run(0)
    notebook.wait_for_text(0, "\n3\n")
    return notebook


def end_counting(server: Server) -> None:
    (server.root_dir / "enough").touch()


def numbers(notebook: NotebookPage) -> list[int]:
    return [int(line) for line in notebook.text(0).split()]


def kernel_state(server: Server) -> str:
    """Return the state of the server's only session's kernel."""
    [session] = server.list_sessions()
    state: str = session["kernel"]["execution_state"]
    return state


def recorded_clients(server: Server) -> list[str]:
    """Return the websockets that the next server will know of."""
    [record] = (server.runtime_dir / "nbsessions" / "kernels").glob("*.json")
    clients: list[str] = json.loads(record.read_bytes())["clients"]
    return clients


def saved_workspaces(server: Server) -> str:
    """Return what the next page that is loaded will know."""
    folder = server.config_dir / "lab" / "workspaces"
    return "".join(file.read_text() for file in folder.glob("*.jupyterlab-workspace"))


def check_numbers(notebook: NotebookPage, before: list[int]) -> None:
    """Each number is there once, in order, also those printed while there was no server."""
    total = int(notebook.execute("total"))
    assert before == list(range(len(before)))
    assert numbers(notebook) == list(range(total))


def test_a_running_cell_goes_on_printing_into_the_open_page(
    context: BrowserContext, server: Server
) -> None:
    notebook = open_counting(context, server)
    connection = notebook.connection()

    server.kill()
    notebook.lab.close_dialog(CONNECTION_LOST)
    before = numbers(notebook)
    server.start(again=True)
    notebook.wait_for_reconnect()
    for _ in range(2):
        # First what was kept for the page, then what is printed now.
        notebook.wait_for_more(0)
    end_counting(server)
    notebook.wait_for_end(0)

    assert notebook.connection() == connection
    assert notebook.execution_count(0) == 1
    check_numbers(notebook, before)
    assert notebook.execute("x + 1") == "43"


@pytest.mark.parametrize("beside", ["nothing", "a console"])
def test_a_cell_that_ends_before_the_page_is_back_shows_all_and_its_number(
    context: BrowserContext, server: Server, beside: str
) -> None:
    notebook = open_counting(context, server)
    if beside == "a console":
        notebook.open_console()
        wait_until(lambda: len(recorded_clients(server)) == 2, "both connections are recorded")

    server.kill()
    notebook.wait_for_loss()
    before = numbers(notebook)
    server.start(again=True)
    end_counting(server)
    wait_until(lambda: kernel_state(server) == "idle", "the cell has ended")
    notebook.wait_for_reconnect()
    notebook.wait_for_end(0)

    assert notebook.execution_count(0) == 1
    check_numbers(notebook, before)


def test_a_page_that_is_loaded_again_shows_the_same_session(
    context: BrowserContext, server: Server
) -> None:
    # jupyter_server fails if a page is reloaded while it connects.
    server.allow_errors("Uncaught exception GET /api/kernels/[^/]+/channels")
    notebook = open_counting(context, server)
    connection = notebook.connection()
    wait_until(lambda: PATH in saved_workspaces(server), "the page knows what it had open")

    server.kill()
    notebook.wait_for_loss()
    server.start(again=True)
    notebook.lab.reload()
    notebook.wait_for_reconnect()
    assert kernel_state(server) == "busy"
    end_counting(server)
    notebook.wait_for_kernel()

    assert notebook.connection()[:2] == connection[:2]
    assert [model["id"] for model in server.list_sessions()] == [connection.session_id]
    assert notebook.execute("x + 1") == "43"


def test_two_tabs_and_a_console_go_on_with_one_kernel(
    context: BrowserContext, server: Server
) -> None:
    tabs = [open_notebook(context, server), open_lab(context, server).open_notebook(PATH)]
    kernel_id = tabs[0].connection().kernel_id
    with attached_console(server.runtime_dir / f"kernel-{kernel_id}.json") as console:
        for everyone, name in zip([*tabs, console], "abc", strict=True):
            everyone.execute(f"{name} = '{name} before'; {name}")

        server.kill()
        for tab in tabs:
            tab.wait_for_loss()
        assert console.execute("a, b, c") == "('a before', 'b before', 'c before')"
        server.start(again=True)
        for tab in tabs:
            tab.wait_for_reconnect()

        for everyone, name in zip([*tabs, console], "abc", strict=True):
            everyone.execute(f"{name} = '{name} after'; {name}")
        for everyone in (*tabs, console):
            assert everyone.execute("a, b, c") == "('a after', 'b after', 'c after')"
    assert {tab.connection().kernel_id for tab in tabs} == {kernel_id}


def test_a_question_asked_before_is_answered_in_the_page_afterwards(
    context: BrowserContext, server: Server
) -> None:
    notebook = open_notebook(context, server, "name = input('Who? ')")
    notebook.run(0)
    notebook.wait_for_input()

    server.kill()
    notebook.wait_for_loss()
    server.start(again=True)
    notebook.wait_for_reconnect()
    notebook.answer("Ada")
    notebook.wait_for_end(0)

    assert "Who?  Ada" in notebook.text(0)
    assert notebook.execute("name") == "'Ada'"
