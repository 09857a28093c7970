"""JupyterLab and Notebook 7 in a real browser.

Tests act through the application's commands and read its models.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Locator,
    Page,
    Request,
    Route,
    sync_playwright,
)

from support.rest import RestClient
from support.server import Server, StartServer

LAB_CONFIG = {
    "LabApp": {
        "expose_app_in_browser": True,
        "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "news_url": None,
    }
}
"""Exposes JupyterLab's application object to scripts, and turns off news and update checks."""

NOTEBOOK7_CONFIG = {"JupyterNotebookApp": {"expose_app_in_browser": True}}
"""Exposes Notebook 7's application object to scripts."""

CONNECTION_LOST = "Server Connection Error"
"""The title of the dialog that JupyterLab shows while its server is down."""

SIGN_IN = "The server wants you to sign in again."
"""What the page says when its server does not know it any more."""

PAGE_IS_GONE = "in (ZMQS|zmqs)tream callback|ZMQStream._update_handler"
"""What jupyter_server logs when a page goes away while its kernel is sending."""

_ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run")
_SESSIONS_URL = re.compile(r"/api/sessions(\?.*)?$")

_NOTEBOOK = """
path => {
    const find = () => [...(window.jupyterapp?.shell.widgets("main") ?? [])].find(
        widget => widget.context?.path === path && widget.content.widgets
    );
    const cell = index => find().content.widgets[index];
    const prompt = index => cell(index).node.querySelector(".jp-InputPrompt");
    const kernel = () => find()?.sessionContext.session?.kernel;
    return {
        find,
        kernel,
        isUp: () => kernel()?.connectionStatus === "connected" && kernel().status === "idle",
        bringToFront: async () => {
            // Opening a document again activates it. Commands act on the one that has the focus.
            while (jupyterapp.shell.currentWidget !== find()) {
                await jupyterapp.commands.execute("docmanager:open", {path});
                await new Promise(resolve => setTimeout(resolve, 50));
            }
        },
        run: index => {
            const {content} = find();
            content.deselectAll();
            content.activeCellIndex = index;
            // Not awaited: it resolves only when the cell has ended.
            jupyterapp.commands.execute("notebook:run-cell");
        },
        append: source => {
            const model = find().content.model.sharedModel;
            model.insertCell(model.cells.length, {cell_type: "code", source});
            return model.cells.length - 1;
        },
        sources: () =>
            find().content.widgets.map(each => each.model.sharedModel.source).join("\\n"),
        outputs: index => cell(index).model.outputs.toJSON(),
        text: index => cell(index).model.outputs.toJSON().map(
            output => output.text ?? output.data?.["text/plain"] ?? output.traceback.join("\\n")
        ).join(""),
        count: index => cell(index).model.executionCount,
        isRunning: index => prompt(index).textContent.includes("*"),
        prompt,
    };
}
"""


_RECORD_CONNECTIONS = """
() => {
    const widgets = [...jupyterapp.shell.widgets("main")];
    const connections = widgets.map(widget =>
        widget.sessionContext?.session?.kernel ?? widget.content?.session
    ).filter(Boolean);
    let last = 0;
    for (const connection of connections)
        connection.connectionStatusChanged.connect((_, status) => {
            if (status === "connected") last = Date.now();
        });
    window.lastConnected = () => last;
    window.areConnected = () =>
        last > 0 && connections.every(each =>
            each.isDisposed || each.connectionStatus === "connected");
}
"""


class Connection(NamedTuple):
    """What a notebook in a page is connected to."""

    session_id: str
    kernel_id: str
    client_id: str
    """The id of the page's own websocket to the kernel. It changes when the page is reloaded."""


class LabPage:
    """A tab with JupyterLab in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._under_way: set[Request] = set()
        # Playwright takes no methods of built-in types.
        page.on("request", lambda request: self._under_way.add(request))
        page.on("requestfinished", lambda request: self._under_way.discard(request))
        page.on("requestfailed", lambda request: self._under_way.discard(request))

    def open(self, url: str) -> LabPage:
        """Load JupyterLab and wait until it is ready."""
        self.begin_to_load(url)
        self.wait_for_lab()
        return self

    def begin_to_load(self, url: str) -> None:
        """Start loading a page, without waiting for it."""
        self.page.goto(url, wait_until="commit")

    def reload(self) -> None:
        """Reload the page at its current address."""
        self.page.reload()
        self.wait_for_lab()

    def wait_for_lab(self) -> None:
        """Wait until JupyterLab is ready."""
        self.wait_for(
            "() => { window.jupyterapp?.restored.then(() => { window.labIsRestored = true; });"
            " return window.labIsRestored; }"
        )

    def open_notebook(self, path: str) -> NotebookPage:
        """Open a notebook in the server's root directory and wait until its kernel is idle."""
        notebook = self.begin_to_open(path)
        notebook.wait_for_kernel()
        return notebook

    def begin_to_open(self, path: str) -> NotebookPage:
        """Start opening a notebook in the server's root directory, without waiting for it."""
        self.page.evaluate(
            "path => { jupyterapp.commands.execute('docmanager:open', {path}); }", path
        )
        return NotebookPage(self, path)

    def open_without_kernel(self, path: str) -> NotebookPage:
        """Choose "Open With", "Notebook (no kernel)", and wait until the notebook is open."""
        self.page.locator(".jp-DirListing-item", has_text=path).click(button="right")
        for label in ("Open With", "Notebook (no kernel)"):
            self.page.locator(".lm-Menu-item", has_text=label).click()
        notebook = NotebookPage(self, path)
        notebook.wait_until_ready()
        return notebook

    # What it is connected to

    def record_connections(self) -> None:
        """Begin to note when the kernels and terminals of the page connect."""
        self.page.evaluate(_RECORD_CONNECTIONS)

    def wait_for_connections(self) -> float:
        """Wait until all that was recorded is connected, and return when the last one was."""
        # The browser does not paint a tab in the background, so look at it by a timer.
        self.page.wait_for_function("areConnected()", polling=100)
        moment: float = self.page.evaluate("lastConnected()") / 1000
        return moment

    def open_console(self, path: str) -> None:
        """Open a new console, and wait until it is connected."""
        self.begin("console:create", {"path": path, "kernelPreference": {"name": "python3"}})
        self.wait_for(
            "path => [...jupyterapp.shell.widgets('main')].some(widget => widget.console"
            " && widget.sessionContext.path.startsWith(path)"
            " && widget.sessionContext.session?.kernel?.status === 'idle')",
            path,
        )

    def open_terminal(self) -> None:
        """Open a new terminal, and wait until it is connected."""
        self.begin("terminal:create-new")
        self.wait_for(
            "() => [...jupyterapp.shell.widgets('main')].some(widget =>"
            " widget.content?.session?.connectionStatus === 'connected')"
        )

    def begin(self, command: str, arguments: Mapping[str, object] | None = None) -> None:
        """Execute a command of the application, without waiting for its end."""
        # Not awaited: some commands end only when the user does something.
        self.page.evaluate(
            "([command, args]) => { jupyterapp.commands.execute(command, args); }",
            [command, arguments or {}],
        )

    # What it tells

    def notifications(self, text: str) -> list[str]:
        """Return the notifications that are shown and contain the text."""
        texts = self.page.locator(".jp-toastContainer .jp-toast-message").all_inner_texts()
        return [each for each in texts if text in each]

    def wait_for_notification(self, text: str) -> str:
        """Wait for a notification that contains the text, and return its whole text."""
        notification = self.page.locator(".jp-toastContainer .jp-toast-message", has_text=text)
        notification.wait_for()
        whole: str = notification.inner_text()
        return whole

    def choose(self, label: str) -> None:
        """Click the button of a notification."""
        self.page.locator(".jp-toastContainer .jp-toast-button", has_text=label).click()

    def fill_in(self, text: str) -> None:
        """Type a text into the field of a dialog."""
        self.page.locator("input.jp-Dialog-body, .jp-Dialog-body input").fill(text)

    def press_enter(self) -> None:
        """Press Enter, as in the field of a dialog."""
        self.page.keyboard.press("Enter")

    def dialog_text(self) -> str:
        """Wait for a dialog, and return the text of its body."""
        text: str = self.page.locator(".jp-Dialog-body").inner_text()
        return text

    def running_kernels(self) -> list[str]:
        """Return the ids of the kernels that the page lists as running."""
        ids: list[str] = self.page.evaluate(
            "[...jupyterapp.serviceManager.kernels.running()].map(model => model.id)"
        )
        return ids

    def wait_for(self, expression: str, argument: object = None) -> None:
        """Wait until a JavaScript function returns a true value. Raises TimeoutError."""
        self.page.wait_for_function(expression, arg=argument)

    def version(self) -> str:
        """Return the name and the version of the application."""
        text: str = self.page.evaluate("`${jupyterapp.name} ${jupyterapp.version}`")
        return text

    def wait_until_quiet(self) -> None:
        """Wait until no request of the page has been under way for half a second."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 0.5:
            self.page.wait_for_timeout(50)
            if self._under_way:
                quiet_since = time.monotonic()

    def look_at(self) -> None:
        """Bring the tab to the front."""
        self.page.bring_to_front()

    def close_dialog(self, title: str) -> None:
        """Wait for a dialog and close it by its last button, as a user would."""
        dialog = self.page.locator(".jp-Dialog", has_text=title)
        dialog.locator(".jp-Dialog-button").last.click()
        dialog.wait_for(state="detached")

    def close_dialogs(self) -> None:
        """Close all open dialogs."""
        for title in self.dialogs():
            self.close_dialog(title)

    def dialogs(self) -> list[str]:
        """Return the titles of the open dialogs."""
        return self.page.locator(".jp-Dialog .jp-Dialog-header").all_inner_texts()


class NotebookPage:
    """A notebook that is open in a tab. Cells are counted from 0."""

    def __init__(self, lab: LabPage, path: str) -> None:
        self.lab = lab
        self.path = path

    def _call(self, call: str, argument: object = None) -> Any:
        return self.lab.page.evaluate(*self._function(call, argument))

    def _wait_for(self, call: str, argument: object = None) -> None:
        self.lab.wait_for(*self._function(call, argument))

    def _function(self, call: str, argument: object) -> tuple[str, list[object]]:
        helpers = f"const notebook = ({_NOTEBOOK})(path);"
        return f"([path, argument]) => {{ {helpers} return {call}; }}", [self.path, argument]

    # Cells

    def run(self, index: int) -> None:
        """Start running a cell, without waiting for it."""
        self._call("notebook.bringToFront()")
        self._call("notebook.run(argument)", index)

    def execute(self, code: str) -> str:
        """Append a cell, run it, wait until it has ended, and return its output."""
        index = self.append(code)
        self.run(index)
        self.wait_for_end(index)
        return self.text(index)

    def text(self, index: int) -> str:
        """Return the cell's output: what it has printed, and its result."""
        text: str = self._call("notebook.text(argument)", index)
        return text

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """Return the cell's outputs, as they would be saved."""
        outputs: list[dict[str, Any]] = self._call("notebook.outputs(argument)", index)
        return outputs

    def cell(self, index: int) -> Locator:
        """Return what is shown of the cell. No other notebook may be open in the tab."""
        return self.lab.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def execution_count(self, index: int) -> int | None:
        """Return the number next to the cell. None if it shows no number or a star."""
        count: int | None = self._call("notebook.count(argument)", index)
        return count

    def prompt(self, index: int) -> str:
        """Return what is shown next to the cell."""
        text: str = self._call("notebook.prompt(argument).textContent", index)
        return text

    def prompt_title(self, index: int) -> str:
        """Return the explanation of what is shown next to the cell."""
        title: str = self._call("notebook.prompt(argument).title", index)
        return title

    def append(self, source: str) -> int:
        """Append a cell, and return its number."""
        index: int = self._call("notebook.append(argument)", source)
        return index

    def source(self) -> str:
        """Return the source of all cells."""
        source: str = self._call("notebook.sources()")
        return source

    def wait_for_text(self, index: int, text: str) -> None:
        """Wait until the cell's output contains the text."""
        call = "notebook.text(argument[0]).includes(argument[1])"
        self._wait_for(call, [index, text])

    def wait_for_more(self, index: int) -> None:
        """Wait until the cell's output grows."""
        call = "notebook.text(argument[0]).length > argument[1]"
        self._wait_for(call, [index, len(self.text(index))])

    def wait_for_prompt(self, index: int, prompt: str) -> None:
        """Wait until this is shown next to the cell."""
        call = "notebook.prompt(argument[0]).textContent === argument[1]"
        self._wait_for(call, [index, prompt])

    def wait_for_end(self, index: int) -> None:
        """Wait until the cell has its number and is no longer running."""
        call = "notebook.count(argument) !== null && !notebook.isRunning(argument)"
        self._wait_for(call, index)

    def answer(self, text: str) -> None:
        """Type the answer to ``input()``, and Enter."""
        # An open dialog would keep the focus.
        self.lab.close_dialogs()
        field = self._input()
        field.fill(text)
        field.press("Enter")

    def wait_for_input(self) -> None:
        """Wait until the notebook asks for an answer to ``input()``."""
        self._input().wait_for()

    def _input(self) -> Any:
        return self.lab.page.locator(".jp-Stdin-input:not([disabled])")

    # The file

    def rename(self, path: str) -> None:
        """Rename the notebook, as "Rename Notebook…" does, and wait until that is done."""
        # The document's context takes the new name, not the new path.
        self._call("notebook.find().context.rename(argument)", path.rpartition("/")[2])
        self.path = path

    def begin_to_save(self) -> None:
        """Save the notebook, without waiting for it."""
        self._call("void notebook.find().context.save().catch(() => {})")

    # The kernel

    def connection(self) -> Connection:
        """Return what the notebook is connected to now."""
        ids = self._call(
            "[notebook.find().sessionContext.session.id, notebook.kernel().id,"
            " notebook.kernel().clientId]"
        )
        return Connection(*ids)

    def change_kernel(self, model: Mapping[str, str]) -> None:
        """Switch to a kernel, given by ``name`` or ``id``, and wait until it is idle."""
        self._call("notebook.find().sessionContext.changeKernel(argument).then(() => null)", model)
        self.wait_for_kernel()

    def has_private_method(self) -> bool:
        """Whether the connection has the private method that the page's extension uses."""
        has: bool = self._call("typeof notebook.kernel()._updateStatus === 'function'")
        return has

    def has_session(self) -> bool:
        """Whether the notebook has a session, and so a kernel."""
        has_session: bool = self._call("notebook.find().sessionContext.session !== null")
        return has_session

    def refresh(self) -> None:
        """Ask the server for its sessions, as the page does every few seconds."""
        self._call("jupyterapp.serviceManager.sessions.refreshRunning()")

    def shut_down_kernel(self) -> None:
        """Shut the kernel down, as "Shut Down Kernel" does."""
        self._call("notebook.find().sessionContext.shutdown()")

    def wait_until_ready(self) -> None:
        """Wait until the page has dealt with the kernel, as it does when it opens a notebook."""
        self._wait_for("notebook.find()?.sessionContext.isReady")

    def wait_for_kernel(self) -> None:
        """Wait until the kernel is connected and idle."""
        self._wait_for("notebook.isUp()")

    def open_console(self) -> None:
        """Open "New Console for Notebook", which has its own connection to the kernel."""
        self._call("notebook.bringToFront()")
        # Not awaited: it resolves only when the kernel is idle.
        self._call("void jupyterapp.commands.execute('notebook:create-console')")
        self.lab.wait_for(
            "() => [...jupyterapp.shell.widgets('main')].some(widget =>"
            " widget.console?.sessionContext.session?.kernel?.connectionStatus === 'connected')"
        )

    def wait_until_received(self) -> None:
        """Wait until the kernel, which may be busy, has received what the page has sent."""
        # Kernels answer this while a cell runs, and the server passes on messages in order.
        self._call(
            "notebook.kernel().requestDebug({type: 'request', seq: 1, command: 'debugInfo'})"
            ".done.then(() => null)"
        )

    def wait_for_loss(self) -> None:
        """Wait until the page has noticed that the kernel's connection is gone."""
        self._wait_for("notebook.kernel().connectionStatus !== 'connected'")

    def wait_for_reconnect(self) -> None:
        """Wait until the page has reconnected to the kernel by itself."""
        self._wait_for("notebook.kernel()?.connectionStatus === 'connected'")


def write_notebook(server: Server, path: str, sources: Sequence[str]) -> None:
    """Put a notebook of code cells into the server's root directory."""
    write_notebook_file(server.root_dir / path, sources)


def write_notebook_file(file: Path, sources: Sequence[str]) -> None:
    """Write a notebook of code cells."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{index}",
            "source": source,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        for index, source in enumerate(sources)
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": spec},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    file.write_text(json.dumps(notebook))


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Yield a browser. Until it is closed, its thread cannot run an event loop of its own."""
    path = chromium_or_fail()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def open_lab(context: BrowserContext, server: RestClient, *, with_token: bool = True) -> LabPage:
    """Open JupyterLab in a new tab. Without the token, the browser needs a cookie."""
    # Use a separate workspace, so that notebooks of other tabs are not opened here.
    path = f"/lab/workspaces/{uuid4().hex}"
    return LabPage(context.new_page()).open(server.page_url(path, with_token=with_token))


class PageKind(NamedTuple):
    """An application and a release of it."""

    host: str
    extension: str
    config: Mapping[str, Mapping[str, Any]]


PAGES = {
    "lab": PageKind("newest", "jupyterlab", LAB_CONFIG),
    "lab-4.0": PageKind("oldest", "jupyterlab", LAB_CONFIG),
    "notebook7": PageKind("newest", "notebook", NOTEBOOK7_CONFIG),
    "notebook7.0": PageKind("oldest", "notebook", NOTEBOOK7_CONFIG),
}


def kinds_of_pages(*usual: str) -> Iterable[str]:
    """Return the kinds of pages to run a test with: the usual ones, or with ALL_PAGES=1 all."""
    return PAGES if os.environ.get("ALL_PAGES") else usual


def start_again_later(server: Server, seconds: float = 2.5) -> None:
    """Start a server again after so long that its pages find it worth a word."""
    time.sleep(seconds)
    server.start(again=True)


def start_page_server(
    start_server: StartServer,
    kind: str,
    *,
    start: bool = True,
    keep_output: bool = True,
    **extensions: bool,
) -> Server:
    """Start a server with this kind of pages, and with more or fewer extensions."""
    host, extension, config = PAGES[kind]
    config = {**config, "SurvivingKernels": {"keep_output": keep_output}}
    enabled = {extension: True, **extensions}
    server = start_server(host, config=config, extensions=enabled, start=start)
    server.allow_errors(PAGE_IS_GONE)
    return server


def open_page(context: BrowserContext, server: Server, kind: str, path: str) -> NotebookPage:
    """Open a notebook in a new tab, and wait until its kernel is idle."""
    if PAGES[kind].extension == "jupyterlab":
        return open_lab(context, server).open_notebook(path)
    notebook = begin_to_open_notebook7(context, server, path)
    notebook.wait_for_kernel()
    return notebook


def begin_to_open_notebook7(context: BrowserContext, server: Server, path: str) -> NotebookPage:
    """Start opening a notebook in a new Notebook 7 tab.

    Notebook 7 is built from JupyterLab's components, so ``LabPage`` works for it, too.
    """
    page = LabPage(context.new_page())
    page.begin_to_load(server.page_url(f"/notebooks/{path}"))
    return NotebookPage(page, path)


def hold_starts(
    context: BrowserContext, parties: int, action: Callable[[], object] | None = None
) -> None:
    """Hold back the tabs' POSTs to ``/api/sessions`` until there are ``parties`` of them.

    Then release all of them at once. As with ``threading.Barrier``, the action is called just
    before.
    """
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method != "POST" or len(held) == parties:
            route.continue_()
            return
        held.append(route)
        if len(held) == parties:
            if action is not None:
                action()
            for each in held:
                each.continue_()

    context.route(_SESSIONS_URL, hold)


def chromium_or_fail() -> str:
    """Return the path of the browser. Fails the test with a hint if it is missing."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("This test needs a browser: apt-get install chromium", pytrace=False)
    return path
