"""Checks that a database server can be reached, and that our role and tables in it are usable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from nbsessions.cli.checks.finding import Finding, error, ok, warning
from nbsessions.cli.configuration import StoreLocation
from nbsessions.errors import StoreError
from nbsessions.stores.inspection import DatabaseCondition, DatabaseInspection, TableAccess

_OLDEST_VERSION = 150000
_SLOW = timedelta(milliseconds=50)
"""A write takes several round trips."""
_CLOCK_TOLERANCE = timedelta(seconds=5)
_MIGRATE = "jupyter nbsessions database migrate, as the owner of the tables"
_GRANT = "jupyter nbsessions database grant, as the owner of the tables"
_RESTRICT = f"if the users do not trust each other, give each a role, and run {_GRANT}"


def check_database(location: StoreLocation, inspection: DatabaseInspection) -> Iterator[Finding]:
    """Check the configured database."""
    yield from _namespace(location)
    try:
        condition = inspection.examine()
    except StoreError as problem:
        yield error(
            "store",
            str(problem),
            "check that the database runs, and the URL in c.AsyncSessionManager.store_url or "
            "NBSESSIONS_STORE_URL. Passwords are read from the file that PGPASSFILE names, too",
        )
        return
    yield ok("store", f"sessions are kept in {location.label}, which can be reached")
    yield from examine_condition(condition, location.namespace)


def examine_condition(
    condition: DatabaseCondition, namespace: str | None = None
) -> Iterator[Finding]:
    """Report what is right and wrong about a database that can be reached.

    ``namespace`` is the one that servers use, if it is known.
    """
    yield _version(condition)
    yield _writable(condition)
    yield _latency(condition)
    yield _encryption(condition)
    yield _pooler(condition)
    yield _clock(condition)
    yield _schema(condition)
    yield from _privileges(condition)
    if condition.tables:
        yield _row_security(condition, namespace)
    if condition.population is not None:
        there = condition.population
        yield ok(
            "store-contents",
            f"sessions: {there.sessions}, servers that were not stopped: {there.owners}, "
            f"namespaces: {there.namespaces}",
        )


def _namespace(location: StoreLocation) -> Iterator[Finding]:
    if location.problem is not None:
        yield error("namespace", f"servers do not start: {location.problem}")
    elif location.namespace is not None:
        yield ok("namespace", f"the namespace is {location.namespace!r}")


def _version(condition: DatabaseCondition) -> Finding:
    message = f"PostgreSQL has version {condition.version}"
    if condition.version_number < _OLDEST_VERSION:
        hint = "upgrade it to version 15 or newer"
        return warning("store-version", f"{message}, which nbsessions is not tested with", hint)
    return ok("store-version", message)


def _writable(condition: DatabaseCondition) -> Finding:
    if condition.takes_writes:
        return ok("store-writable", "it takes writes")
    return error(
        "store-writable",
        "it takes no writes: it is a standby, or default_transaction_read_only is on",
        "name all servers in the URL, with target_session_attrs=read-write, or turn that off",
    )


def _latency(condition: DatabaseCondition) -> Finding:
    message = f"a round trip takes {condition.latency.total_seconds() * 1000:.1f} ms"
    if condition.latency > _SLOW:
        hint = "move the database closer to the servers, or use a faster network"
        return warning("store-latency", f"{message}, and a write takes several", hint)
    return ok("store-latency", message)


def _encryption(condition: DatabaseCondition) -> Finding:
    check = "store-encryption"
    if condition.encrypted:
        return ok(check, "the connection is encrypted")
    if condition.is_local:
        return ok(check, "the connection is not encrypted, but stays on this machine")
    return warning(
        check,
        "the connection is not encrypted, so that others on the network may read and change it",
        "set up TLS on the server, and add sslmode=verify-full to the URL",
    )


def _pooler(condition: DatabaseCondition) -> Finding:
    if condition.pooled:
        return ok(
            "store-pooler", "a connection pooler is between, which nbsessions is prepared for"
        )
    return ok("store-pooler", "no connection pooler was noticed")


def _clock(condition: DatabaseCondition) -> Finding:
    seconds = condition.clock_difference.total_seconds()
    message = f"its clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} ours"
    if abs(condition.clock_difference) > _CLOCK_TOLERANCE:
        hint = "let both machines set their clocks from the network (NTP)"
        return warning("store-clock", message, hint)
    return ok("store-clock", message)


def _schema(condition: DatabaseCondition) -> Finding:
    check, version, newest = "store-schema", condition.schema, condition.newest
    role = repr(condition.role)
    if condition.too_new is not None:
        return error(check, condition.too_new, "upgrade nbsessions")
    if version is None:
        return error(check, f"the role {role} may not read the version of the tables", _GRANT)
    if version >= newest:
        return ok(check, f"its schema version is {version}, and this release needs {newest}")
    state = f"it has schema version {version}" if version else "it has no nbsessions tables yet"
    if condition.may_create:
        return ok(check, f"{state}: the first server creates version {newest}")
    return error(check, f"{state}, and the role {role} may not create tables", _MIGRATE)


def _privileges(condition: DatabaseCondition) -> Iterator[Finding]:
    check, role = "store-privileges", repr(condition.role)
    denied = [
        f"{', '.join(each.denied)} on {each.name}" for each in condition.tables if each.denied
    ]
    excessive = [
        f"{', '.join(each.excessive)} on {each.name}"
        for each in condition.tables
        if each.excessive
    ]
    if denied:
        yield error(check, f"the role {role} lacks {'; '.join(denied)}", _GRANT)
    elif excessive:
        yield warning(
            check,
            f"the role {role} does not own the tables, but has rights that servers do not need: "
            f"{'; '.join(excessive)}",
            "take them away with REVOKE, as the owner of the tables, or for the role of one user "
            f"run {_GRANT}",
        )
    elif condition.tables:
        yield ok(check, f"the role {role} can read and write the tables")
    may = "may" if condition.may_create else "may not"
    yield ok("store-role", f"the role is {role}, which {may} create tables")


def _row_security(condition: DatabaseCondition, namespace: str | None) -> Finding:
    check, role = "store-row-security", repr(condition.role)
    tables = [each for each in condition.tables if each.is_private]
    without = [each.name for each in tables if not each.has_row_security]
    if without:
        return _without_row_security(condition, tables, without)
    if not all(each.row_security_applies for each in tables):
        return warning(
            check,
            f"row-level security is on, but does not restrict the role {role}",
            "servers of users should use a role that does not own the tables, is no superuser and "
            "has no BYPASSRLS",
        )
    if condition.granted is not None and namespace not in (None, *condition.granted):
        message = f"row-level security keeps the role {role} from the namespace {namespace!r}"
        return error(check, message, _GRANT)
    return ok(check, f"row-level security is on, and restricts the role {role}")


def _without_row_security(
    condition: DatabaseCondition, tables: Sequence[TableAccess], without: Sequence[str]
) -> Finding:
    check = "store-row-security"
    if len(without) < len(tables):
        message = f"row-level security is off for {', '.join(without)}, but on for others"
        return warning(check, message, _RESTRICT)
    if condition.population is not None and condition.population.namespaces > 1:
        return warning(
            check,
            "row-level security is off: whoever uses the database can read and change all "
            "namespaces",
            _RESTRICT,
        )
    return ok(check, "row-level security is off, and there is no namespace of others")
