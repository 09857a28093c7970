"""Checks that the session store exists, is intact and writable, and is not exposed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nbsessions.cli.checks.database import check_database
from nbsessions.cli.checks.finding import Finding, error, ok, warning
from nbsessions.cli.checks.permissions import exposed, is_writable, replaceable
from nbsessions.cli.configuration import StoreLocation
from nbsessions.errors import StoreDamaged, StoreError, StoreTooNew
from nbsessions.stores.inspection import DatabaseInspection
from nbsessions.stores.sqlite.errors import store_error
from nbsessions.stores.sqlite.filesystem import is_local
from nbsessions.stores.sqlite.folder import StoreFolder
from nbsessions.stores.sqlite.inspection import StoreCondition, examine, is_there

_SUFFIXES = ("", "-wal", "-shm", "-journal")
_MAX_NAMED_ROWS = 5


def check_store(location: StoreLocation) -> Iterator[Finding]:
    """Check the configured store."""
    if isinstance(location.inspection, DatabaseInspection):
        yield from check_database(location, location.inspection)
    elif location.file is None:
        yield from _no_file(location)
    else:
        try:
            exists = is_there(location.file)
        except StoreError as problem:
            yield error("store", str(problem))
            return
        if not exists:
            yield from _missing(location.file)
            return
        yield ok("store", f"sessions are kept in {location.label}")
        yield from _permissions(location, location.file)
        yield from _contents(location.file)


def _no_file(location: StoreLocation) -> Iterator[Finding]:
    if location.is_memory:
        yield warning("store", "sessions are kept in memory, and are lost when their server ends")
    else:
        yield ok("store", f"sessions are kept in {location.label}, which cannot be checked here")


def _missing(path: Path) -> Iterator[Finding]:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if is_writable(folder):
        yield ok("store", f"{path} does not exist yet: the first server creates it")
    else:
        yield error("store", f"{path} does not exist, and {folder} cannot be written to")


def _permissions(location: StoreLocation, path: Path) -> Iterator[Finding]:
    found = [
        finding
        for suffix in _SUFFIXES
        for finding in exposed("store-permissions", path.with_name(path.name + suffix))
    ]
    try:
        StoreFolder(path, private=location.private_folder).check()
    except OSError as problem:
        found.append(error("store-permissions", str(store_error(problem, path))))
    check_folder = exposed if location.private_folder else replaceable
    found.extend(check_folder("store-permissions", path.parent))
    yield from found
    if not found:
        yield ok("store-permissions", "nobody else can read or change it")
    unwritable = [each for each in (path, path.parent) if not is_writable(each)]
    for each in unwritable:
        yield error("store-writable", f"{each} cannot be written to", f"chmod u+w {each}")
    if not unwritable:
        yield ok("store-writable", "it can be written to")


def _contents(path: Path) -> Iterator[Finding]:
    try:
        condition = examine(path)
    except StoreDamaged as problem:
        yield _damage(str(problem))
    except StoreTooNew as problem:
        yield error("store-schema", str(problem))
    except StoreError as problem:
        yield error("store-readable", str(problem))
    else:
        yield from _condition(condition, path)


def _condition(condition: StoreCondition, path: Path) -> Iterator[Finding]:
    if condition.damage is None:
        yield ok("store-integrity", "it is not damaged")
    else:
        yield _damage(condition.damage)
    if condition.unreadable:
        yield warning(
            "store-rows",
            f"rows that cannot be read and are left out: {len(condition.unreadable)} "
            f"({'; '.join(condition.unreadable[:_MAX_NAMED_ROWS])})",
            "a newer release that wrote them can read them; otherwise they are damaged",
        )
    elif condition.damage is None:
        yield ok("store-rows", "all rows can be read")
    if condition.schema:
        yield ok("store-schema", f"its schema version is {condition.schema}")
    else:
        yield ok("store-schema", "it has no nbsessions tables yet: the first server creates them")
    if condition.wal:
        yield ok("store-journal", "it is in WAL mode")
    else:
        yield ok("store-journal", f"it uses a rollback journal, {_why(condition, path)}")


def _why(condition: StoreCondition, path: Path) -> str:
    if condition.is_stock:
        return "because jupyter_server's own session manager uses the file, too"
    if not is_local(path.parent):
        return "because it is on a network file system or one of unknown type"
    return "until a server starts"


def _damage(text: str) -> Finding:
    return error(
        "store-integrity",
        f"it is damaged: {text}",
        "stop all servers, then start one: it saves what can be read and keeps the damaged file",
    )
