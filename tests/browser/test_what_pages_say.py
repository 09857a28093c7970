"""What pages say when their server is back, and what they offer."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import BrowserContext

from support.browser import (
    LAB_CONFIG,
    LabPage,
    NotebookPage,
    kinds_of_pages,
    open_lab,
    open_page,
    start_again_later,
    start_page_server,
    write_notebook,
)
from support.keepers import wait_until_sent_is_known
from support.server import Server, StartServer
from support.waiting import wait_until

PATH = "a.ipynb"

PRINTS_LATER = """
import time
from pathlib import Path
print("begins", flush=True)
while not Path("end").exists():
    time.sleep(0.1)
for number in range(LINES):
    print(f"{number:9}" + "x" * 990, flush=not number % 100)
Path("ended").touch()
"""


WAITS_FOR_A_FILE = """
import time
from pathlib import Path
Path("begun").touch()
while not Path("end").exists():
    time.sleep(0.1)
Path("ended").touch()
"""


@pytest.mark.parametrize("kind", kinds_of_pages("lab", "lab-4.0"))
def test_a_cell_whose_reply_was_lost_does_not_stay_running(
    context: BrowserContext, start_server: StartServer, kind: str
) -> None:
    server = start_page_server(start_server, kind, keep_output=False)
    write_notebook(server, PATH, [WAITS_FOR_A_FILE, "done = 1; done"])
    notebook = open_page(context, server, kind, PATH)
    notebook.run(0)
    # The prompt tells only that the page wants the cell to run.
    wait_until((server.root_dir / "begun").exists, "the cell is running")
    server.kill()
    # The cell ends while no server is there.
    (server.root_dir / "end").touch()
    wait_until((server.root_dir / "ended").exists, "the cell comes to its end")
    wait_until(lambda: kernels_are_idle(server), "the kernel has sent its reply")
    server.start(again=True)
    wait_until(lambda: notebook.prompt(0) == "[?]:", "the cell is settled")
    text = notebook.lab.wait_for_notification("Back after")
    assert "1 cell got no reply." in text
    assert notebook.prompt_title(0).startswith("No reply came")
    notebook.run(1)
    notebook.wait_for_end(1)
    assert notebook.text(1) == "1"
    notebook.run(0)
    notebook.wait_for_end(0)
    assert notebook.prompt_title(0) == ""


def kernels_are_idle(server: Server) -> bool:
    """Whether no kernel used the processor for half a second."""
    processes = server.kernel_processes()
    before = [process.cpu_times() for process in processes]
    time.sleep(0.5)
    return [process.cpu_times() for process in processes] == before


def kill_kernels_too(server: Server) -> None:
    server.kill()
    server.kill_kernels()


def stop(server: Server) -> None:
    server.stop()


STOPPED = "The kernel of a.ipynb was shut down with the server: variables are gone."
DIED = "The kernel of a.ipynb ended while the server was away: variables are gone."


ENDS = {"stopped": (stop, STOPPED), "died": (kill_kernels_too, DIED)}


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        *[(kind, "stopped") for kind in kinds_of_pages("lab", "notebook7")],
        *[(kind, "died") for kind in kinds_of_pages("lab-4.0")],
    ],
)
def test_the_page_says_why_a_kernel_is_gone_and_starts_another(
    context: BrowserContext,
    start_server: StartServer,
    kind: str,
    end: str,
) -> None:
    do_end, reason = ENDS[end]
    server = start_page_server(start_server, kind)
    write_notebook(server, PATH, ["x = 1"])
    notebook = open_page(context, server, kind, PATH)
    notebook.run(0)
    notebook.wait_for_end(0)

    # A request under way may keep jupyter_server from ending: it leaves a thread of AnyIO behind.
    notebook.lab.wait_until_quiet()
    do_end(server)
    start_again_later(server)
    text = notebook.lab.wait_for_notification("Back after")
    assert text.endswith(reason)
    assert notebook.lab.dialogs() == []
    notebook.lab.choose("Start new kernel")
    notebook.wait_for_kernel()
    assert notebook.execute("'x' in globals()") == "False"
    assert len(notebook.lab.notifications("Back after")) <= 1


def test_a_new_kernel_is_started_once_and_replaces_none(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, [])
    first, second = (open_lab(context, server).open_notebook(PATH) for _ in range(2))
    kill_kernels_too(server)
    start_again_later(server)
    for tab in (first, second):
        tab.lab.look_at()
        tab.lab.wait_for_notification(DIED)
    first.lab.look_at()
    first.change_kernel({"name": "python3"})
    first.execute("x = 'precious'")
    # The user has started a kernel by hand, and still chooses what the notifications offer.
    for tab in (first, second):
        tab.lab.look_at()
        tab.lab.choose("Start new kernel")
        tab.wait_for_kernel()
        assert tab.execute("x") == "'precious'"
    assert len(server.kernel_processes()) == 1


def fail_a_request(lab: LabPage) -> None:
    """Have the page send a request that fails, and that JupyterLab itself would not send."""
    lab.page.route("**/api/other", lambda route: route.fulfill(status=503))
    lab.page.evaluate(
        """() => {
            const {serverSettings} = jupyterapp.serviceManager;
            return serverSettings.fetch(new Request(`${serverSettings.baseUrl}api/other`));
        }"""
    )


def test_a_failed_request_settles_no_cell_of_a_kernel_that_is_connected(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, ["import time\ntime.sleep(3)\n42"])
    notebook = open_lab(context, server).open_notebook(PATH)
    notebook.run(0)
    # Some kernels answer this while a cell runs.
    notebook.lab.page.evaluate(
        """() => {
            const [panel] = [...jupyterapp.shell.widgets("main")].filter(each => each.context);
            panel.sessionContext.session.kernel.requestKernelInfo = async () => {};
        }"""
    )
    with notebook.lab.page.expect_response("**/api/sessions/status?*"):
        fail_a_request(notebook.lab)
    notebook.wait_for_end(0)
    assert notebook.text(0) == "42"
    assert notebook.prompt(0) == "[1]:"


def test_a_dialog_that_somebody_fills_in_stays(context: BrowserContext, server: Server) -> None:
    write_notebook(server, PATH, [])
    notebook = open_lab(context, server).open_notebook(PATH)
    server.kill()
    notebook.wait_for_loss()
    fail_a_request(notebook.lab)
    notebook.lab.begin("docmanager:save-as")
    notebook.lab.fill_in("b.ipynb")
    start_again_later(server)
    notebook.lab.wait_for_notification("Back after")
    notebook.lab.press_enter()
    wait_until((server.root_dir / "b.ipynb").exists, "the notebook is saved under its new name")


def test_the_page_says_that_the_server_has_another_root_directory(
    context: BrowserContext, server: Server
) -> None:
    write_notebook(server, PATH, ["x = 1"])
    notebook = open_lab(context, server).open_notebook(PATH)
    notebook.run(0)
    notebook.wait_for_end(0)
    server.kill()
    old, server.root_dir = server.root_dir, server.folder / "another"
    server.root_dir.mkdir()
    server.configure(LAB_CONFIG, {"jupyterlab": True})
    start_again_later(server)
    text = notebook.lab.wait_for_notification("Back after")
    assert "The server keeps other sessions now" in text
    notebook.lab.choose("Start new kernel")
    notebook.wait_for_kernel()
    assert notebook.execute("'x' in globals()") == "False"
    assert len(server.kernel_processes()) == 2, "the first one still runs"
    assert old.exists()


def test_the_details_name_each_notebook(context: BrowserContext, server: Server) -> None:
    lab = open_lab(context, server)
    for name in ("a.ipynb", "b.ipynb"):
        write_notebook(server, name, [])
    kernel_id = lab.open_notebook("a.ipynb").connection().kernel_id
    lab.open_notebook("b.ipynb")
    server.kill()
    [process] = [each for each, line in server.kernel_commands().items() if kernel_id in line]
    process.kill()
    start_again_later(server)
    lab.wait_for_notification("The kernel of a.ipynb ended while the server was away")
    lab.choose("Details")
    assert lab.dialog_text().splitlines() == [
        "a.ipynb: the kernel ended while the server was away.",
        "b.ipynb: the kernel kept running.",
    ]


def print_while_away(context: BrowserContext, server: Server, lines: int) -> NotebookPage:
    """Return a page whose cell has printed so many lines of 1,000 characters in its absence."""
    write_notebook(server, PATH, [PRINTS_LATER.replace("LINES", str(lines))])
    notebook = open_lab(context, server).open_notebook(PATH)
    notebook.run(0)
    notebook.wait_for_text(0, "begins")
    server.kill()
    notebook.wait_for_loss()
    wait_until_sent_is_known(server.runtime_dir)
    (server.root_dir / "end").touch()
    wait_until((server.root_dir / "ended").exists, "the cell has printed everything")
    start_again_later(server)
    return notebook


def test_the_page_says_how_much_was_restored(context: BrowserContext, server: Server) -> None:
    notebook = print_while_away(context, server, 12)
    text = notebook.lab.wait_for_notification("Back after")
    assert text.endswith("The kernel kept running. 12 lines of output were restored.")


def test_the_page_says_how_much_is_lost_and_why(
    context: BrowserContext, start_server: StartServer
) -> None:
    config = {**LAB_CONFIG, "SurvivingKernels": {"output_limit": 1_000_000}}
    server = start_server(config=config, extensions={"jupyterlab": True})
    notebook = print_while_away(context, server, 3000)
    text = notebook.lab.wait_for_notification("Back after")
    found = re.search(
        r"Back after \d+ s\. ([\d,]+) lines of output were restored\. "
        r"(([\d,]+) lines of output are missing: there was more than is kept\.)$",
        text,
    )
    assert found is not None, text
    restored, missing = (int(found[group].replace(",", "")) for group in (1, 3))
    assert restored + missing == 3000

    notebook.wait_for_end(0)
    first, line, *rest = notebook.text(0).splitlines()
    assert (first, line) == ("begins", f"[{found[2]}]")
    assert [int(each[:9]) for each in rest if each] == list(range(missing, 3000))
    notebook.lab.choose("Details")
    [details] = notebook.lab.dialog_text().splitlines()
    assert details == f"a.ipynb: the kernel kept running. {found[1]} lines of output " + (
        f"were restored. {found[2]}"
    )
