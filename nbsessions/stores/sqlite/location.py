"""Where the SQLite store's file is by default, and how a store is made from a URL."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nbsessions.identity import machine_key
from nbsessions.stores.sqlite.filesystem import is_local
from nbsessions.stores.sqlite.store import SQLiteSessionStore


def default_file(folder: Path) -> Path:
    """Return the file in our own folder; one per host where hosts may share the folder."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if is_local(existing):
        return folder / "sessions.db"
    # The name of a laptop changes with the network that it is in.
    return folder / f"sessions-{machine_key()}.db"


def store_from_url(url: str, *, namespace: str, log: logging.Logger) -> SQLiteSessionStore:
    """Return a store for ``sqlite:///absolute/path``."""
    return SQLiteSessionStore(Path(unquote(urlsplit(url).path)), namespace, log=log)
