"""Opens the stores that operators name by their URLs. Messages never repeat a URL."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from traitlets import TraitError
from traitlets.config import Config

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.cli.configuration import configured, configured_session_manager
from nbsessions.cli.errors import CommandError
from nbsessions.environment import STORE_URL_VARIABLE
from nbsessions.stores.moving import MovableStore
from nbsessions.stores.sqlite.location import path_from_url
from nbsessions.stores.sqlite.moving import MovableFile

if TYPE_CHECKING:
    from nbsessions.stores.postgres.administration import Administration

_POSTGRES = ("postgresql", "postgres")


def configured_url(config: Config) -> str:
    """Return the URL that servers with this configuration use. Raises CommandError."""
    try:
        manager = configured_session_manager(config)
    except CommandError:
        manager = None
    if manager is None or not issubclass(manager, AsyncSessionManager):
        manager = AsyncSessionManager
    for section in (each.__name__ for each in manager.__mro__):
        url = configured(config, section, "store_url")
        if url:
            return str(url)
    url = os.environ.get(STORE_URL_VARIABLE, "")
    if not url:
        raise CommandError(
            "no database is configured. Give its URL with --store, in "
            f"c.AsyncSessionManager.store_url or in {STORE_URL_VARIABLE}"
        )
    return url


def open_database(url: str, option: str) -> Administration:
    """Return the PostgreSQL with this URL. Raises CommandError.

    ``option`` says where the URL is from.
    """
    if _scheme(url) not in _POSTGRES:
        raise CommandError(f"{option} is not the URL of a PostgreSQL (postgresql://host/database)")
    with _explained(option):
        # Imported late, because the drivers need not be installed.
        from nbsessions.stores.postgres.administration import Administration
        from nbsessions.stores.postgres.settings import connection_settings

        return Administration(connection_settings(url))


def open_movable(url: str, option: str, *, log: logging.Logger) -> MovableStore:
    """Return the file or database with this URL. Raises CommandError."""
    if not url:
        raise CommandError(f"{option} is missing: give the URL of a store")
    if _scheme(url) == "sqlite":
        path = path_from_url(url)
        if not path.is_absolute() or path.name == "":
            raise CommandError(f"{option} needs an absolute path: sqlite:///path/of/the/file")
        return MovableFile(path, log=log)
    if _scheme(url) not in _POSTGRES:
        raise CommandError(
            f"{option} is neither the URL of an SQLite file (sqlite:///path) nor of a PostgreSQL "
            "(postgresql://host/database)"
        )
    with _explained(option):
        from nbsessions.stores.postgres.moving import MovableDatabase
        from nbsessions.stores.postgres.settings import connection_settings

        return MovableDatabase(connection_settings(url))


@contextmanager
def _explained(option: str) -> Iterator[None]:
    """Raise CommandError for a wrong URL, and if the drivers are not installed."""
    try:
        yield
    except ImportError as error:
        raise CommandError(
            f"PostgreSQL needs a package that cannot be imported ({error}): "
            "pip install 'nbsessions[postgres]'"
        ) from error
    except TraitError as error:
        raise CommandError(f"{option}: {error}") from error


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition(":")
    return scheme if separator else ""
