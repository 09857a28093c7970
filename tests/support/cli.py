"""Runs ``jupyter nbsessions`` with the environment of a server."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.server import Server

_QUESTION = b"(n)"  # how the question ends, whatever its colours
_TIMEOUT = 60.0
_RETYPE_AFTER = 3.0
"""Seconds without output after which the answer is typed again."""


@dataclass(frozen=True)
class Ran:
    """The exit code and output of a command."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Return the JSON on stdout. Asserts that stderr is empty."""
        assert self.err == "", self.err
        return json.loads(self.out)


class CommandLine:
    """The command line in the test environment, run as the user of one server."""

    def __init__(self, server: Server) -> None:
        self.environment = server._full_environment()
        self._folder = server.folder
        self._wrapper = server.wrapper

    def __call__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Ran:
        """Run a subcommand without a terminal."""
        ran = subprocess.run(
            self._command(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            env={**self.environment, **(environment or {})},
            cwd=self._folder,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def ask(self, *arguments: str, answer: str) -> tuple[int, str]:
        """Run a subcommand in a terminal and type the answer to its question.

        Returns the exit code and the contents of the screen.
        """
        controller, terminal = pty.openpty()
        command = subprocess.Popen(
            self._command(arguments),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**self.environment, "TERM": "xterm", "NO_COLOR": "1"},
            cwd=self._folder,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        screen = b""
        deadline = time.monotonic() + _TIMEOUT
        with contextlib.suppress(OSError):  # The command has ended and closed its end.
            while time.monotonic() < deadline:
                if select.select([controller], [], [], _RETYPE_AFTER)[0]:
                    asked = _QUESTION in screen
                    screen += os.read(controller, 4096)
                    answers = not asked and _QUESTION in screen
                else:
                    # Python misses a Ctrl-C that arrives just as it starts reading a line.
                    answers = _QUESTION in screen
                if answers:
                    os.write(controller, answer.encode())
        os.close(controller)
        try:
            return command.wait(_TIMEOUT), screen.decode()
        finally:
            command.kill()

    def sessions(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the sessions that ``list --json`` prints."""
        ran = self("list", "--json", *arguments)
        assert ran.status == 0, ran.err
        listed: list[dict[str, Any]] = json.loads(ran.out)
        return listed

    def paths(self, *arguments: str) -> list[str | None]:
        """Return the paths of the listed sessions."""
        return [each["path"] for each in self.sessions(*arguments)]

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [*self._wrapper, sys.executable, "-m", "nbsessions.cli", *arguments]


def info_file(server: Server) -> Path:
    """Return the server info file by which a running server is found."""
    folder = Path(server._full_environment()["JUPYTER_RUNTIME_DIR"])
    return folder / f"jpserver-{server.pid}.json"


def change_info(server: Server, **changes: object) -> None:
    """Change fields of the server info file."""
    path = info_file(server)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
