"""What a check has found."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Level(str, enum.Enum):
    """How bad it is. Only an error is wrong."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about the installation."""

    check: str
    """What was looked at; part of our interface."""
    level: Level
    message: str
    hint: str | None = None
    """What to do about it."""

    def to_json(self) -> Mapping[str, Any]:
        """Return what ``doctor --json`` prints."""
        return {
            "check": self.check,
            "level": self.level.value,
            "message": self.message,
            "hint": self.hint,
        }


def ok(check: str, message: str) -> Finding:
    """Return that all is well."""
    return Finding(check=check, level=Level.OK, message=message)


def warning(check: str, message: str, hint: str | None = None) -> Finding:
    """Return a limit that a person may want to know of."""
    return Finding(check=check, level=Level.WARNING, message=message, hint=hint)


def error(check: str, message: str, hint: str | None = None) -> Finding:
    """Return what is wrong."""
    return Finding(check=check, level=Level.ERROR, message=message, hint=hint)
