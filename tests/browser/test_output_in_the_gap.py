"""What pages show of a cell that runs while its server is away: the same as without a gap."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext

from support.browser import PAGES, NotebookPage, open_lab, open_page
from support.gaps import LAST_LINE, LINES, LONG, ROUNDS, Gap, check_lines
from support.server import Server, StartServer
from support.watching import WatchingConsole


def check_lines_over_a_gap(
    notebook: NotebookPage, gap: Gap, *, end: Callable[[Server], object] = Server.kill
) -> None:
    """Run the cell of lines, and check that the gap leaves no traces."""
    notebook.run(0)
    notebook.wait_for_text(0, "3\n")
    with gap.away(notebook, seconds=LONG, end=end):
        pass
    notebook.wait_for_end(0)
    check_lines(notebook.text(0))
    assert notebook.execution_count(0) == 1


@pytest.mark.parametrize("kind", ["lab", "notebook7"])
def test_every_line_is_shown_once(gap: Gap, context: BrowserContext, kind: str) -> None:
    path = gap.write(LINES)
    notebook = open_page(context, gap.server, kind, path)
    check_lines_over_a_gap(notebook, gap)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_line_is_shown_once_if_the_server_is_restarted(
    start_server: StartServer, context: BrowserContext, number: int
) -> None:
    keeps = {"SurvivingKernels": {"keep_kernels": "restart"}}
    server = start_server("lab", config={**PAGES["lab"].config, **keeps})
    gap = Gap(server, number)
    notebook = open_lab(context, server).open_notebook(gap.write(LINES))
    # A request under way may keep jupyter_server from ending: it leaves a thread of AnyIO behind.
    notebook.lab.wait_until_quiet()
    check_lines_over_a_gap(notebook, gap, end=Server.stop)


ENDING = """
for number in range(10):
    print(number, flush=True)
    if number == 4:
        tell("begun")
        wait_for("gone")
"""


def test_a_cell_that_ends_in_the_gap_shows_its_result(gap: Gap, context: BrowserContext) -> None:
    path = gap.write(ENDING + "tell('ended')\n'the result'")
    notebook = open_lab(context, gap.server).open_notebook(path)
    notebook.run(0)
    gap.wait_for("begun")
    with gap.away(notebook):
        gap.wait_for("ended")
    notebook.wait_for_end(0)

    lines = "".join(f"{number}\n" for number in range(10))
    assert notebook.text(0) == f"{lines}'the result'"
    assert notebook.execution_count(0) == 1
    assert notebook.execute("number") == "9"


def test_a_cell_whose_reply_was_lost_with_the_server_has_its_number(
    gap: Gap, context: BrowserContext
) -> None:
    notebook = open_lab(context, gap.server).open_notebook(gap.write(ENDING, "tell('replied')"))

    def kill_before_it_passes_on_the_reply(server: Server) -> None:
        server.send_signal(signal.SIGSTOP)
        gap.tell("gone")
        gap.wait_for("replied")
        server.kill()

    notebook.run(0)
    gap.wait_for("begun")
    notebook.run(1)
    notebook.wait_until_received()
    with gap.away(notebook, end=kill_before_it_passes_on_the_reply):
        pass
    for index in range(2):
        notebook.wait_for_end(index)
        assert notebook.execution_count(index) == index + 1
    assert notebook.text(0) == "".join(f"{number}\n" for number in range(10))


def test_a_cell_that_fails_in_the_gap_shows_why_and_the_next_one_does_not_run(
    gap: Gap, context: BrowserContext
) -> None:
    path = gap.write(ENDING + "tell('ended')\nraise ValueError(number)", "print('never')")
    notebook = open_lab(context, gap.server).open_notebook(path)
    notebook.run(0)
    gap.wait_for("begun")
    notebook.run(1)
    assert notebook.prompt(1) == "[*]:"
    notebook.wait_until_received()
    with gap.away(notebook):
        gap.wait_for("ended")
    notebook.wait_for_end(0)
    notebook.wait_for_prompt(1, "[ ]:")

    printed, error = notebook.outputs(0)
    assert printed["text"] == "".join(f"{number}\n" for number in range(10))
    assert (error["ename"], error["evalue"]) == ("ValueError", "9")
    assert "raise" in "".join(error["traceback"])
    assert notebook.execution_count(0) == 1
    assert (notebook.outputs(1), notebook.execution_count(1)) == ([], None)
    assert notebook.execute("number") == "9"


ASKING = """
tell("begun")
wait_for("gone")
tell("asks")
name = input("Who? ")
print("Hello", name)
"""


def test_a_question_first_asked_in_the_gap_is_answered_afterwards(
    gap: Gap, context: BrowserContext
) -> None:
    notebook = open_lab(context, gap.server).open_notebook(gap.write(ASKING))
    notebook.run(0)
    gap.wait_for("begun")
    with gap.away(notebook):
        gap.wait_for("asks")
    notebook.wait_for_input()
    notebook.answer("Ada")
    notebook.wait_for_end(0)

    assert notebook.text(0) == "Who?  Ada\nHello Ada\n"
    assert notebook.execution_count(0) == 1
    assert notebook.execute("name") == "'Ada'"


def test_a_page_that_only_watches_shows_every_line_once(gap: Gap, context: BrowserContext) -> None:
    path = gap.write(LINES)
    runs = open_lab(context, gap.server).open_notebook(path)
    watches = open_lab(context, gap.server).open_notebook(path)
    console = WatchingConsole(watches)
    runs.lab.look_at()
    runs.run(0)
    runs.wait_for_text(0, "3\n")
    with gap.away(runs, watches, seconds=LONG):
        pass
    runs.wait_for_end(0)
    watches.lab.look_at()
    console.wait_for_text(LAST_LINE)

    check_lines(runs.text(0))
    check_lines(console.text())
    assert console.execution_counts() == [1]
