"""Databases as their operators see them."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import psycopg
import pytest

from nbsessions.stores.postgres import schema
from nbsessions.stores.postgres.administration import Administration
from nbsessions.stores.postgres.settings import connection_settings
from support.postgres import shared_cluster

LOG = logging.getLogger("nbsessions.tests")
NEWEST = len(schema.MIGRATIONS)
PASSWORD = "correct-horse-battery-staple"
NOBODY = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/nbsessions"
"""Nothing listens there."""


def empty_database() -> str:
    """Return the URL of a database without tables. It has a password that is not asked for."""
    return shared_cluster().make_schema().replace("postgres@", f"postgres:{PASSWORD}@")


def make_role() -> str:
    """Return a new role of the cluster without any rights."""
    name = f"role_{uuid.uuid4().hex}"
    shared_cluster().execute(f"CREATE ROLE {name} LOGIN")
    return name


def query(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def administration(url: str) -> Administration:
    return Administration(connection_settings(url))


def make_tables(url: str, version: int = NEWEST) -> None:
    """Create the tables as the release with this schema did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        administration(url).migrate()
