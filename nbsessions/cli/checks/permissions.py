"""Checks who can read, write or replace a file or folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nbsessions.cli.checks.finding import Finding, error

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def exposed(check: str, path: Path) -> Iterator[Finding]:
    """Report a file or folder that other users can access, or that another user owns."""
    status = _status(path)
    if status is None:
        return
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        yield error(check, f"{path} belongs to another user")
    if os.name != "nt" and status.st_mode & _OTHERS:
        wanted = "700" if stat.S_ISDIR(status.st_mode) else "600"
        yield error(
            check,
            f"{path} can be used by others (mode {stat.S_IMODE(status.st_mode):o})",
            f"chmod {wanted} {path}",
        )


def replaceable(check: str, folder: Path) -> Iterator[Finding]:
    """Report a folder in which other users may replace files."""
    status = _status(folder)
    if status is not None and os.name != "nt":
        mode = status.st_mode
        if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
            yield error(
                check,
                f"others may replace the files in {folder} (mode {stat.S_IMODE(mode):o})",
                f"chmod go-w {folder}",
            )


def is_writable(path: Path) -> bool:
    """Return whether we can and should write. (Root can write even read-only files.)"""
    status = _status(path)
    if status is None:
        return False
    return bool(status.st_mode & stat.S_IWUSR) and os.access(path, os.W_OK)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
