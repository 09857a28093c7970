"""Pages whose server goes away and comes back."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import BrowserContext, Request

from support.browser import (
    CONNECTION_LOST,
    LAB_CONFIG,
    PAGES,
    LabPage,
    open_lab,
    open_page,
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
LONG_ENOUGH = 2.5
"""Seconds of absence after which a page says that it is back."""

BACK_WITHIN = 5.0
"""Seconds that a test allows on a busy machine. Without the extension, it takes up to 30."""


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_page_server(start_server, "lab")


def lose_and_start_again(server: Server, seconds: float = LONG_ENOUGH) -> None:
    server.kill()
    time.sleep(seconds)
    server.start(again=True)


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

    for count, away in enumerate(AWAY * ROUNDS, start=1):
        notebook.lab.record_connections()
        lose_and_start_again(server, away)
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

    lose_and_start_again(server)
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


# What the page says


@pytest.mark.parametrize("kind", PAGES)
def test_a_cell_whose_reply_was_lost_does_not_stay_running(
    context: BrowserContext, start_server: StartServer, kind: str
) -> None:
    server = start_page_server(start_server, kind)
    # The cell ends while no server is there.
    source = "import os, time\nwhile not os.path.exists('end'):\n    time.sleep(0.1)"
    write_notebook(server, PATH, [source, "done = 1; done"])
    notebook = open_page(context, server, kind, PATH)
    notebook.run(0)
    wait_until(lambda: notebook.prompt(0) == "[*]:", "the cell is running")
    server.kill()
    (server.root_dir / "end").touch()
    wait_until(lambda: kernels_are_idle(server), "the kernel has ended its cell")
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


@pytest.mark.parametrize(
    ("kind", "end", "reason"),
    [
        ("lab", stop, STOPPED),
        ("lab", kill_kernels_too, DIED),
        ("lab-4.0", kill_kernels_too, DIED),
        ("notebook7", stop, STOPPED),
        ("notebook7.0", kill_kernels_too, DIED),
    ],
    ids=["lab stopped", "lab died", "lab-4.0 died", "notebook7 stopped", "notebook7.0 died"],
)
def test_the_page_says_why_a_kernel_is_gone_and_starts_another(
    context: BrowserContext,
    start_server: StartServer,
    kind: str,
    end: Callable[[Server], None],
    reason: str,
) -> None:
    server = start_page_server(start_server, kind)
    write_notebook(server, PATH, ["x = 1"])
    notebook = open_page(context, server, kind, PATH)
    notebook.run(0)
    notebook.wait_for_end(0)

    # A request under way may keep jupyter_server from ending: it leaves a thread of AnyIO behind.
    notebook.lab.wait_until_quiet()
    end(server)
    time.sleep(LONG_ENOUGH)
    server.start(again=True)
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
    time.sleep(LONG_ENOUGH)
    server.start(again=True)
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
    time.sleep(LONG_ENOUGH)
    server.start(again=True)
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
    time.sleep(LONG_ENOUGH)
    old, server.root_dir = server.root_dir, server.folder / "another"
    server.root_dir.mkdir()
    server.configure(LAB_CONFIG, {"jupyterlab": True})
    server.start(again=True)
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
    time.sleep(LONG_ENOUGH)
    server.start(again=True)
    lab.wait_for_notification("The kernel of a.ipynb ended while the server was away")
    lab.choose("Details")
    assert lab.dialog_text().splitlines() == [
        "a.ipynb: the kernel ended while the server was away.",
        "b.ipynb: the kernel kept running.",
    ]


# When it has nothing to do


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
