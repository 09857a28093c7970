"""The errors of the command line.

::

    SessionError
    └── CommandError            its message is shown to the user, and the exit code is 1
        └── ServerUnreachable   a running server does not answer as it should
"""

from __future__ import annotations

from nbsessions.errors import SessionError


class CommandError(SessionError):
    """A command cannot be carried out. The message tells the user why."""


class ServerUnreachable(CommandError):
    """A running server does not answer, rejects our token, or sends an unexpected reply."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"the server {url} {problem}")
