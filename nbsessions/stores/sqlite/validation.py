"""Validates the configured path of the SQLite file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from traitlets import TraitError, validate

from nbsessions.private import follow_own_link, open_file

_HEADER = b"SQLite format 3"


def validate_database_path(trait: str) -> Any:
    """Return a validator for a trait that contains the path of an SQLite file."""

    @validate(trait)
    def check(configurable: Any, proposal: Any) -> str:
        value: str = proposal["value"]
        if value != ":memory:":
            _check(trait, os.path.expanduser(value))
        return value

    return check


def _check(trait: str, path: str) -> None:
    if os.path.isdir(path):
        raise TraitError(f"`{trait}` expects a file, but {path} is a directory")
    try:
        with open(open_file(follow_own_link(Path(path)), os.O_RDONLY), "rb") as file:
            header = file.read(len(_HEADER))
    except OSError:
        return  # The file does not exist, or opening the store reports the error.
    if header not in (b"", _HEADER):
        raise TraitError(f"`{trait}`: {path} is not an SQLite database file")
