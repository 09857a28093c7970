"""Asks before something is lost."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.prompt import Confirm

from nbsessions.cli.errors import CommandError


def require_terminal() -> None:
    """Raise CommandError if nobody can be asked."""
    if not sys.stdin.isatty():
        raise CommandError(
            "Cannot ask for confirmation, since stdin is not a terminal: use --yes to skip it"
        )


def confirmed(question: str, console: Console) -> bool:
    """Return whether the user agrees. The default is not to."""
    try:
        return Confirm.ask(question, console=console, default=False)
    except EOFError:
        return False
