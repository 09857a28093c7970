"""A console in a page that shows what others run in its kernel."""

from __future__ import annotations

from typing import Any

from support.browser import LabPage, NotebookPage

_CONSOLE = """
() => {
    const [widget] = [...jupyterapp.shell.widgets("main")].filter(each => each.console);
    // The first cell shows the kernel's banner.
    const cells = () => [...widget.console.cells].filter(each => each.model.type === "code");
    return {
        isShown: () => jupyterapp.shell.currentWidget === widget,
        text: () => cells().flatMap(
            each => each.model.outputs.toJSON().map(output => output.text)
        ).join(""),
        counts: () => cells().map(each => each.model.executionCount),
    };
}
"""


class WatchingConsole:
    """A "New Console for Notebook" with "Show All Kernel Activity"."""

    def __init__(self, notebook: NotebookPage) -> None:
        """Open the console."""
        self.lab: LabPage = notebook.lab
        notebook.open_console()
        self.lab.wait_for(f"() => ({_CONSOLE})().isShown()")
        self.lab.begin("console:toggle-show-all-kernel-activity")

    def text(self) -> str:
        """Return the output of all cells."""
        text: str = self._call("text()")
        return text

    def execution_counts(self) -> list[int | None]:
        """Return the numbers of all cells."""
        counts: list[int | None] = self._call("counts()")
        return counts

    def wait_for_text(self, text: str) -> None:
        """Wait until the output contains the text."""
        self.lab.wait_for(f"text => ({_CONSOLE})().text().includes(text)", text)

    def _call(self, call: str) -> Any:
        return self.lab.page.evaluate(f"() => ({_CONSOLE})().{call}")
