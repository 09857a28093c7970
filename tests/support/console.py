"""``jupyter console --existing`` in its own terminal: a client that bypasses the server."""

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
    """Runs code in the kernel of a connection file."""

    def __init__(self, terminal: pexpect.spawn[str]) -> None:
        self._terminal = terminal
        self._terminal.expect(_PROMPT)

    def execute(self, code: str) -> str:
        """Run code that has a result, and return the result as plain text."""
        self._terminal.sendline(code)
        # Do not wait for the next prompt: code of other clients may have caused an extra one.
        self._terminal.expect(_RESULT)
        result: str = self._terminal.match[1]
        self._terminal.expect(_PROMPT)
        return result


@contextmanager
def attached_console(connection_file: Path) -> Iterator[Console]:
    """Yield a console that is attached to the kernel. It leaves the kernel running."""
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
