"""Finds out what a database server and a role offer, and how the connection gets there."""

from __future__ import annotations

import ipaddress
import time
from datetime import datetime, timedelta
from typing import Any

from nbsessions.errors import StoreTooNew
from nbsessions.models import utcnow
from nbsessions.stores.inspection import DatabaseCondition, Population, TableAccess
from nbsessions.stores.postgres.database import TimedConnection
from nbsessions.stores.postgres.schema import ISOLATED, MEMBERS, MIGRATIONS, read_version

_ROUND_TRIPS = 5
_META = "nbsessions_meta"
_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
_ALL_PRIVILEGES = (*_PRIVILEGES, "TRUNCATE")
_NEEDED = {_META: ("SELECT",), MEMBERS: ("SELECT",)}
"""The privileges that servers need, for the tables that they do not write to."""

_SELECT_NOW = "SELECT clock_timestamp()"
_SELECT_BACKEND = "SELECT pg_backend_pid()"
_SELECT_SERVER = """SELECT current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_user::text AS role,
    NOT pg_is_in_recovery() AND NOT current_setting('default_transaction_read_only')::boolean
    AS takes_writes,
    COALESCE(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create"""
_SELECT_TABLES = """SELECT relname::text, relrowsecurity,
    row_security_active(oid) AND NOT pg_has_role(relowner, 'USAGE'),
    pg_has_role(relowner, 'USAGE'),
    has_table_privilege(oid, 'SELECT'), has_table_privilege(oid, 'INSERT'),
    has_table_privilege(oid, 'UPDATE'), has_table_privilege(oid, 'DELETE'),
    has_table_privilege(oid, 'TRUNCATE')
    FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p')
    AND starts_with(relname::text, 'nbsessions_') AND pg_catalog.pg_table_is_visible(oid)
    ORDER BY relname"""
_SELECT_GRANTED = f"SELECT namespace FROM {MEMBERS} WHERE member = current_user"
# In the order in which a migration or a grant locks the tables: see ISOLATED.
_SELECT_POPULATION = """SELECT (SELECT COUNT(*) FROM nbsessions_namespace),
    (SELECT COUNT(*) FROM nbsessions_owner WHERE stopped IS NULL),
    (SELECT COUNT(*) FROM nbsessions_session)"""
_COUNTED = {"nbsessions_session", "nbsessions_owner", "nbsessions_namespace"}


def examine(connection: TimedConnection, *, begin: str) -> DatabaseCondition:
    """Examine the server. ``begin`` begins a transaction that cannot write.

    Raises psycopg.Error.
    """
    latency, difference = _time(connection)
    pooled = _is_pooled(connection)
    connection.execute(begin)
    version, version_number, role, takes_writes, may_create = _one(connection, _SELECT_SERVER)
    tables = tuple(map(_table, connection.execute(_SELECT_TABLES)))
    schema, too_new = _schema(connection, tables)
    readable = {each.name for each in tables if "SELECT" not in each.denied}
    counted = bool(schema) and readable >= _COUNTED
    restricted = any(each.row_security_applies for each in tables) and MEMBERS in readable
    namespaces, owners, sessions = _one(connection, _SELECT_POPULATION) if counted else [0] * 3
    return DatabaseCondition(
        version=version,
        version_number=version_number,
        role=role,
        takes_writes=takes_writes,
        latency=latency,
        clock_difference=difference,
        encrypted=bool(connection.pgconn.ssl_in_use),
        is_local=_is_local(connection),
        pooled=pooled or _is_pooled(connection),
        may_create=may_create,
        schema=schema,
        newest=len(MIGRATIONS),
        too_new=too_new,
        tables=tables,
        granted=frozenset(name for (name,) in connection.execute(_SELECT_GRANTED))
        if restricted
        else None,
        population=Population(sessions=sessions, owners=owners, namespaces=namespaces)
        if counted
        else None,
    )


def _time(connection: TimedConnection) -> tuple[timedelta, timedelta]:
    """Return the latency, and how far the clock of the server is ahead."""
    found = []
    for _ in range(_ROUND_TRIPS):
        before, started = utcnow(), time.perf_counter()
        theirs: datetime = _one(connection, _SELECT_NOW)[0]
        took = timedelta(seconds=time.perf_counter() - started)
        found.append((took, theirs - (before + took / 2)))
    return min(found)


def _is_pooled(connection: TimedConnection) -> bool:
    """Return whether another process serves us than the one that we were told of.

    A pooler makes up an id when we connect, and may serve each transaction by another process.
    """
    return bool(_one(connection, _SELECT_BACKEND)[0] != connection.info.backend_pid)


def _is_local(connection: TimedConnection) -> bool:
    if connection.info.host.startswith(("/", "@")):
        return True  # a Unix socket
    try:
        return ipaddress.ip_address(connection.info.hostaddr).is_loopback
    except ValueError:
        return False


def _table(row: Any) -> TableAccess:
    name, has_row_security, applies, is_owner, *has = row
    needed = set(_NEEDED.get(name, _PRIVILEGES))
    granted = {each for each, has_it in zip(_ALL_PRIVILEGES, has, strict=True) if has_it}
    surplus = set() if is_owner else granted - needed
    return TableAccess(
        name=name,
        denied=tuple(each for each in _ALL_PRIVILEGES if each in needed - granted),
        excessive=tuple(each for each in _ALL_PRIVILEGES if each in surplus),
        is_private=name in (*ISOLATED, MEMBERS),
        has_row_security=has_row_security,
        row_security_applies=applies,
    )


def _schema(
    connection: TimedConnection, tables: tuple[TableAccess, ...]
) -> tuple[int | None, str | None]:
    """Return the version of our tables, and why this release cannot use them."""
    if any(each.name == _META and each.denied for each in tables):
        return None, None
    try:
        return read_version(connection), None
    except StoreTooNew as problem:
        return None, str(problem)


def _one(connection: TimedConnection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return row
