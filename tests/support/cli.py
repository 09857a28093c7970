"""Runs ``jupyter nbsessions`` in the environment of a server."""

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

_QUESTION = b"(n)"  # the end of it, whatever its colours
_TIMEOUT = 60.0
_TYPED_AGAIN_AFTER = 3.0
"""Seconds after which a person types the answer again, when nothing happens."""


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Return what it wrote for a program; it has to have written nothing else."""
        assert self.err == "", self.err
        return json.loads(self.out)


class CommandLine:
    """The command line of the tests' own environment, as the user of one server has it."""

    def __init__(self, server: Server) -> None:
        self.environment = server._full_environment()
        self._folder = server.folder

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
        """Run a subcommand at a terminal where somebody types the answer to the question.

        Returns its exit code and what was on the screen.
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
        with contextlib.suppress(OSError):  # Nobody is at the other end any more.
            while time.monotonic() < deadline:
                if select.select([controller], [], [], _TYPED_AGAIN_AFTER)[0]:
                    asked = _QUESTION in screen
                    screen += os.read(controller, 4096)
                    answers = not asked and _QUESTION in screen
                else:
                    # Python misses a Ctrl-C that comes just as it begins to wait for a line.
                    answers = _QUESTION in screen
                if answers:
                    os.write(controller, answer.encode())
        os.close(controller)
        try:
            return command.wait(_TIMEOUT), screen.decode()
        finally:
            command.kill()

    def sessions(self, *arguments: str) -> list[dict[str, Any]]:
        """Return what ``list --json`` writes."""
        ran = self("list", "--json", *arguments)
        assert ran.status == 0, ran.err
        listed: list[dict[str, Any]] = json.loads(ran.out)
        return listed

    def paths(self, *arguments: str) -> list[str | None]:
        """Return the paths that ``list`` lists."""
        return [each["path"] for each in self.sessions(*arguments)]

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "nbsessions.cli", *arguments]


def info_file(server: Server) -> Path:
    """Return the file by which a running server is found."""
    folder = Path(server._full_environment()["JUPYTER_RUNTIME_DIR"])
    return folder / f"jpserver-{server.pid}.json"


def change_info(server: Server, **changes: object) -> None:
    """Change what the server's file says."""
    path = info_file(server)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
