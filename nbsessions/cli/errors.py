"""What keeps a command from doing what it was asked to.

::

    SessionError
    └── CommandError            told to the person, who gets exit code 1
        └── ServerUnreachable   a server that runs does not do what it is asked
"""

from __future__ import annotations

from nbsessions.errors import SessionError


class CommandError(SessionError):
    """A command cannot be carried out; the text says why, to a person."""


class ServerUnreachable(CommandError):
    """A server that runs does not answer, or does not take our token."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"the server {url} {problem}")
