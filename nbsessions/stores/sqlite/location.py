"""The default path of the SQLite file, and the creation of a store from a URL."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbsessions.identity import machine_key
from nbsessions.stores.sqlite.filesystem import is_local
from nbsessions.stores.sqlite.store import SQLiteSessionStore


def default_file(folder: Path) -> Path:
    """Return the file in nbsessions' own folder.

    On a network file system, several hosts may share the folder, so each has its own file.
    """
    existing = folder
    while not os.path.exists(existing):  # False also if it may not be seen
        existing = existing.parent
    if is_local(existing):
        return folder / "sessions.db"
    # Do not use the host name. That of a laptop may change with its network.
    return folder / f"sessions-{machine_key()}.db"


def store_from_url(url: str, *, namespace: str, log: logging.Logger) -> SQLiteSessionStore:
    """Return a store for ``sqlite:///absolute/path``."""
    return SQLiteSessionStore(path_from_url(url), namespace, log=log)


def path_from_url(url: str) -> Path:
    """Return the path in ``sqlite:///absolute/path``."""
    return Path(unquote(urlsplit(url).path))
