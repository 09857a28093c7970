"""Hides passwords in texts that may quote the configuration."""

from __future__ import annotations

import logging
import re

from traitlets.config.application import LevelFormatter

# To the last @ before the path, or of the word: characters that are not escaped are hidden, too.
# This may hide more than the password if the text goes on with an @.
_IN_URL = re.compile(
    r"""([a-z][a-z0-9+.-]*://[^\s:/@]*):(?:[^/?#\n]*@[^\s"']*@|[^\s"']*@|[^/?#\n]*@)""",
    re.IGNORECASE,
)
_IN_PARAMETER = re.compile(r"(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&\"']*)", re.IGNORECASE)


def mask(text: str) -> str:
    """Return the text without the passwords of the URLs in it."""
    return _IN_PARAMETER.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


class MaskingFormatter(LevelFormatter):
    """Formats log messages. traitlets quotes settings that are wrong, or set twice."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message with its traceback, without passwords."""
        return mask(super().format(record))
