"""A server that goes away in the middle of a running cell, and comes back some seconds later.

By default, each test has one short gap. SURVIVAL_ROUNDS=10 repeats each of them ten times, and
those that print lines then take longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from support.browser import NotebookPage, write_notebook
from support.server import Server
from support.waiting import wait_until

ROUNDS = int(os.environ.get("SURVIVAL_ROUNDS", "1"))
SHORT = 3.0
COUNT, PAUSE, LONG = (60, 0.5, 10.0) if ROUNDS > 1 else (40, 0.2, SHORT)
"""How many lines are printed, the seconds after each, and the seconds of the server's absence."""

LINES = f"""
import time
for number in range({COUNT}):
    print(number, flush=True)
    time.sleep({PAUSE})
"""
"""A cell that prints numbered lines before the gap, in it and afterwards."""

LAST_LINE = f"\n{COUNT - 1}\n"

SIGNALS = """
import os, time
def tell(event):
    open(event, "w").close()
def wait_for(event):
    while not os.path.exists(event):
        time.sleep(0.02)
"""
"""The cell's part of ``Gap.tell`` and ``Gap.wait_for``."""


class Gap:
    """A notebook in a folder of its own, and the gap that falls into one of its cells."""

    def __init__(self, server: Server, number: int) -> None:
        """``number``: which of the rounds this is."""
        self.server = server
        self._number = number
        self._folder = server.root_dir / uuid4().hex
        self._folder.mkdir()
        self.path = f"{self._folder.name}/a.ipynb"

    def write(self, *sources: str) -> str:
        """Write the notebook, and return its path. All cells can use the signals."""
        write_notebook(self.server, self.path, [SIGNALS + source for source in sources])
        return self.path

    def tell(self, event: str) -> None:
        """Tell the running cell of an event."""
        (self._folder / event).touch()

    def wait_for(self, event: str) -> None:
        """Wait until the running cell tells of an event."""
        wait_until((self._folder / event).exists, event)

    @contextmanager
    def away(
        self,
        *notebooks: NotebookPage,
        seconds: float = SHORT,
        end: Callable[[Server], object] = Server.kill,
    ) -> Iterator[None]:
        """End the server before the body, and start it again afterwards.

        The cell is told "gone" and "back". At the end, the notebooks are connected again.
        """
        # Each round ends the server at another moment between two lines.
        time.sleep(PAUSE * self._number / ROUNDS)
        end(self.server)
        begun = time.monotonic()
        for notebook in notebooks:
            notebook.wait_for_loss()
        self.tell("gone")
        yield
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        self.server.start(again=True)
        for notebook in notebooks:
            notebook.wait_for_reconnect()
        self.tell("back")

    def close(self) -> None:
        """End the notebook's kernel, so that the server can be used by other tests."""
        if not self.server.is_running:
            self.server.start(again=True)
        for session in self.server.list_sessions():
            self.server.delete(session["id"])


def check_lines(text: str) -> None:
    """Check that each line is there once, in order."""
    assert text.splitlines() == [str(number) for number in range(COUNT)]
