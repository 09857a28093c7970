"""Checks that files can be locked where servers need it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nbsessions.cli.checks.finding import Finding, error, ok, warning
from nbsessions.locks import SUPPORTED, FileLock
from nbsessions.stores.sqlite.repair import beside, real_path

_NAMELESS: int = getattr(os, "O_TMPFILE", 0)
"""The flag that opens an unnamed file, which leaves no trace. 0 if the platform has none."""


def check_locks(store: Path | None, runtime_dir: Path) -> Iterator[Finding]:
    """Try a lock next to the store and in the runtime directory. Leaves no file behind."""
    if not SUPPORTED:
        return  # check_survival reports the platform.
    servers = runtime_dir / "nbsessions" / "servers"
    if (
        store is not None
        and (problem := _try_lock(store.parent, [beside(store, ".write")])) is not None
    ):
        yield error(
            "store-locks",
            f"files in {store.parent} cannot be locked ({problem}): sessions are kept in memory",
            "set c.AsyncSessionManager.database_filepath to a file on a local file system",
        )
    elif store is not None:
        yield ok("store-locks", "files next to it can be locked")
    if (problem := _try_lock(real_path(runtime_dir), _lock_files(servers))) is not None:
        yield warning(
            "runtime-locks",
            f"files in {runtime_dir} cannot be locked ({problem}): kernels end with their server",
            "set JUPYTER_RUNTIME_DIR to a folder on a local file system",
        )
    else:
        yield ok("runtime-locks", f"files in {runtime_dir} can be locked")


def _lock_files(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.endswith(".lock"))
    except OSError:
        return []  # check_records reports the error.


def _try_lock(folder: Path, known: Iterable[Path]) -> OSError | None:
    """Return the error of locking a file in the folder, or in its nearest existing parent.

    ``known`` are lock files that may exist. None of them is created.
    """
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        # Prefer an unnamed file, if the file system supports it.
        candidates = [(folder, os.O_RDWR | _NAMELESS)] if _NAMELESS else []
        for path, flags in (*candidates, *((path, os.O_RDWR) for path in known)):
            try:
                lock = FileLock(path, flags=flags)
            except OSError:
                continue
            with contextlib.closing(lock):
                lock.acquire(shared=True)
            break
    except OSError as problem:
        return problem
    return None
