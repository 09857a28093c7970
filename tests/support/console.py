"""``jupyter console --existing``, in a terminal of its own: a client beside the server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect

_TIMEOUT = 60
_PROMPT = r"In \[\d+\]: "
_RESULT = r"Out\[\d+\]: (.*?)\r?\n"


class Console:
    """Runs code in a kernel that it knows by the connection file."""

    def __init__(self, terminal: pexpect.spawn[str]) -> None:
        self._terminal = terminal
        self._terminal.expect(_PROMPT)

    def execute(self, code: str) -> str:
        """Run code, which has to have a result, and return that as plain text."""
        self._terminal.sendline(code)
        # Not up to the next prompt: there may be one more of before, when others run code.
        self._terminal.expect(_RESULT)
        result: str = self._terminal.match[1]
        self._terminal.expect(_PROMPT)
        return result


@contextmanager
def attached_console(connection_file: Path) -> Iterator[Console]:
    """Yield a console that is attached to the kernel; it leaves the kernel running."""
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter_console", "--simple-prompt", "--existing", str(connection_file)],
        encoding="utf-8",
        timeout=_TIMEOUT,
    )
    try:
        yield Console(terminal)
    finally:
        terminal.close(force=True)
