"""Opens the stores that operators name by their URLs. Messages never repeat a URL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from traitlets import TraitError

from nbsessions.cli.errors import CommandError
from nbsessions.plugins import scheme_of
from nbsessions.stores.moving import MovableStore
from nbsessions.stores.sqlite.location import path_from_url
from nbsessions.stores.sqlite.moving import MovableFile

if TYPE_CHECKING:
    from nbsessions.stores.postgres.administration import Administration

_POSTGRES = ("postgresql", "postgres")


def open_database(url: str, option: str) -> Administration:
    """Return the PostgreSQL with this URL. Raises CommandError.

    ``option`` says where the URL is from.
    """
    if scheme_of(url) not in _POSTGRES:
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
    if scheme_of(url) == "sqlite":
        path = path_from_url(url)
        if not path.is_absolute() or path.name == "":
            raise CommandError(f"{option} needs an absolute path: sqlite:///path/of/the/file")
        return MovableFile(path, log=log)
    if scheme_of(url) not in _POSTGRES:
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
