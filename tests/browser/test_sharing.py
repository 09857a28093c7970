"""One notebook, one kernel: also when two pages open it at once, and not when one is chosen.

``SHARING_ROUNDS`` in the environment sets how often two pages race.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import BrowserContext

from support.browser import (
    LAB_CONFIG,
    PAGE_IS_GONE,
    NotebookPage,
    hold_starts,
    open_lab,
    write_notebook,
)
from support.server import Server, StartServer
from support.waiting import wait_until

ROUNDS = int(os.environ.get("SHARING_ROUNDS", "3"))
PATH = "a.ipynb"
OTHER_PATH = "b.ipynb"


@pytest.fixture(scope="module")
def shared_server(start_shared_server: StartServer) -> Server:
    server = start_shared_server("lab", config=LAB_CONFIG)
    server.allow_errors(PAGE_IS_GONE)
    return server


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A server without sessions and notebooks.

    It is tidied up before a test: after one, its pages may still be there.
    """
    end_sessions(shared_server)
    for file in shared_server.root_dir.glob("*.ipynb"):
        file.unlink()
    return shared_server


def end_sessions(server: Server) -> None:
    for model in server.list_sessions():
        server.delete(model["id"])
    wait_until(lambda: not server.kernel_ids(), "no kernel is left")


def open_notebook(context: BrowserContext, server: Server, path: str = PATH) -> NotebookPage:
    write_notebook(server, path, [])
    return open_lab(context, server).open_notebook(path)


def session_paths(server: Server) -> dict[str, str]:
    """Return the paths of all sessions by their ids."""
    return {model["id"]: model["path"] for model in server.list_sessions()}


def has_variable(notebook: NotebookPage, name: str) -> bool:
    return notebook.execute(f"{name!r} in globals()") == "True"


def test_two_pages_that_open_a_notebook_at_once_share_its_kernel(
    context: BrowserContext, server: Server
) -> None:
    pages = [open_lab(context, server) for _ in range(2)]
    for number in range(ROUNDS):
        path = f"{number}.ipynb"
        write_notebook(server, path, [])
        notebooks = [page.begin_to_open(path) for page in pages]
        for notebook in notebooks:
            notebook.wait_for_kernel()

        first, second = notebooks
        assert first.connection().kernel_id == second.connection().kernel_id
        first.execute("a = 'from the first'")
        second.execute("b = 'from the second'")
        assert second.execute("a") == "'from the first'"
        assert first.execute("b") == "'from the second'"
        assert server.kernel_ids() == {first.connection().kernel_id}
        # Both pages have given their sessions the real path by now.
        assert {model["path"] for model in server.list_sessions()} == {path}
        assert [page.dialogs() for page in pages] == [[], []]
        end_sessions(server)


def test_after_a_change_of_the_kernel_a_page_that_is_loaded_again_has_the_new_one(
    context: BrowserContext, server: Server
) -> None:
    notebook = open_notebook(context, server)
    notebook.execute("x = 42")
    before = notebook.connection()

    notebook.change_kernel({"name": "python3"})
    changed = notebook.connection()
    assert changed.kernel_id != before.kernel_id
    notebook.lab.reload()
    notebook.wait_for_kernel()

    assert notebook.connection()[:2] == changed[:2]
    assert not has_variable(notebook, "x")
    assert server.kernel_ids() == {changed.kernel_id}


def test_after_a_shutdown_a_new_start_gives_an_empty_kernel(
    context: BrowserContext, server: Server
) -> None:
    notebook = open_notebook(context, server)
    notebook.execute("x = 42")
    before = notebook.connection()

    notebook.shut_down_kernel()
    wait_until(lambda: not server.kernel_ids(), "the kernel is gone")
    notebook.change_kernel({"name": "python3"})

    assert notebook.connection().kernel_id != before.kernel_id
    assert not has_variable(notebook, "x")


def test_a_notebook_that_is_attached_to_a_running_kernel_gets_that_one(
    context: BrowserContext, server: Server
) -> None:
    other = server.create("other.ipynb", "python3")["kernel"]["id"]
    server.execute(other, "x = 42; x")
    notebook = open_notebook(context, server)

    notebook.change_kernel({"id": other})

    assert notebook.connection().kernel_id == other
    assert has_variable(notebook, "x")
    # The one that it had before was nobody else's.
    wait_until(lambda: server.kernel_ids() == {other}, "the kernel of before is gone")
    assert len(server.list_sessions()) == 2


def test_a_notebook_that_is_opened_without_a_kernel_gets_none(
    context: BrowserContext, server: Server
) -> None:
    notebook = open_notebook(context, server)
    connection = notebook.connection()

    other = open_lab(context, server).open_without_kernel(PATH)
    other.refresh()

    assert not other.has_session()
    assert session_paths(server) == {connection.session_id: PATH}
    assert server.kernel_ids() == {connection.kernel_id}
    assert notebook.connection() == connection
    assert notebook.execute("6 * 7") == "42"


def test_an_agent_that_asks_while_a_page_opens_a_notebook_shares_its_kernel(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, [])
    page = open_lab(context, server)
    answers: list[Future[dict[str, Any]]] = []
    with ThreadPoolExecutor(1) as agent:
        # The page names the default kernel, the agent names none.
        hold_starts(context, 1, lambda: answers.append(agent.submit(server.create, PATH, {})))
        notebook = page.begin_to_open(PATH)
        notebook.wait_for_kernel()
    [answer] = answers
    kernel_id = answer.result()["kernel"]["id"]

    assert notebook.connection().kernel_id == kernel_id
    assert server.kernel_ids() == {kernel_id}
    assert set(session_paths(server).values()) == {PATH}
    server.execute(kernel_id, "a = 'from the agent'; a")
    assert notebook.execute("a") == "'from the agent'"
    assert page.dialogs() == []


def rename_second(server: Server, first: NotebookPage, second: NotebookPage) -> None:
    """Rename one of two notebooks; both keep their sessions and kernels."""
    connections = [notebook.connection() for notebook in (first, second)]
    second.rename("c.ipynb")
    assert [notebook.connection() for notebook in (first, second)] == connections
    assert session_paths(server) == {
        connections[0].session_id: PATH,
        connections[1].session_id: "c.ipynb",
    }
    assert server.kernel_ids() == {connection.kernel_id for connection in connections}


def test_a_notebook_that_is_renamed_takes_its_session_along_and_no_kernel_away(
    context: BrowserContext, server: Server
) -> None:
    first, second = open_notebook(context, server), open_notebook(context, server, OTHER_PATH)

    rename_second(server, first, second)

    assert first.connection().kernel_id != second.connection().kernel_id
    assert first.execute("6 * 7") == second.execute("6 * 7") == "42"


def test_a_notebook_that_is_renamed_leaves_a_kernel_that_it_was_attached_to_to_all(
    context: BrowserContext, server: Server
) -> None:
    first, second = open_notebook(context, server), open_notebook(context, server, OTHER_PATH)
    first.execute("x = 42")
    second.change_kernel({"id": first.connection().kernel_id})

    rename_second(server, first, second)

    assert has_variable(first, "x")
    assert has_variable(second, "x")


def test_a_session_that_gets_the_path_of_another_shuts_nobodys_kernel_down(
    context: BrowserContext, server: Server
) -> None:
    first, second = open_notebook(context, server), open_notebook(context, server, OTHER_PATH)
    connections = [notebook.connection() for notebook in (first, second)]

    reply = server.patch(connections[1].session_id, {"path": PATH})
    for notebook in (first, second):
        notebook.refresh()

    assert reply.status == 200
    second.path = PATH
    assert [notebook.connection() for notebook in (first, second)] == connections
    assert set(session_paths(server).values()) == {PATH}
    assert server.kernel_ids() == {connection.kernel_id for connection in connections}
    assert first.execute("x = 1; x") == "1"
    assert not has_variable(second, "x")
