"""The result of a check."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbsessions.cli.masking import mask


class Level(str, enum.Enum):
    """The severity. Only an error makes ``doctor`` fail."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about the installation."""

    check: str
    """The name of the check. These names are a public interface."""
    level: Level
    message: str
    hint: str | None = None
    """What to do about it."""

    def __post_init__(self) -> None:
        # Messages may quote the configuration.
        object.__setattr__(self, "message", mask(self.message))

    def to_json(self) -> Mapping[str, Any]:
        """Return what ``doctor --json`` prints."""
        return {
            "check": self.check,
            "level": self.level.value,
            "message": self.message,
            "hint": self.hint,
        }


def ok(check: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, level=Level.OK, message=message)


def warning(check: str, message: str, hint: str | None = None) -> Finding:
    """Return a finding about a limitation that the user may want to know about."""
    return Finding(check=check, level=Level.WARNING, message=message, hint=hint)


def error(check: str, message: str, hint: str | None = None) -> Finding:
    """Return a finding about something that is wrong."""
    return Finding(check=check, level=Level.ERROR, message=message, hint=hint)
