"""Attacks of another user, in a folder in which everybody may create files.

The functions are called in a process of that user, see ``become_nobody``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

PLAIN, WIDE, LINK = "a folder", "a folder open to all", "a link"


def plant(folder: Path, kind: str, files: Path) -> None:
    """Create ``folder`` as a copy of the files, or as a link to them."""
    if kind == LINK:
        folder.symlink_to(files)
    else:
        shutil.copytree(files, folder, symlinks=True)
        if kind == WIDE:
            for each in (folder, *folder.rglob("*")):
                if not each.is_symlink():
                    each.chmod(0o777)


def plant_inside(folder: Path, files: Path) -> list[str]:
    """Copy the files into an existing folder, as far as possible. Return which were copied."""
    planted = []
    for each in sorted(files.rglob("*")):
        target = folder / each.relative_to(files)
        with contextlib.suppress(OSError):
            if each.is_symlink():
                target.symlink_to(os.readlink(each))
            elif each.is_dir():
                target.mkdir()
            else:
                target.write_bytes(each.read_bytes())
            planted.append(str(each.relative_to(files)))
    return planted


def plant_again_and_again(folder: Path, files: Path, begun: Path, stop: Path) -> int:
    """Create and remove ``folder`` without a pause until ``stop`` exists.

    Return how often it did not exist before.
    """
    ways: list[Callable[[], object]] = [
        lambda: folder.symlink_to(files),
        lambda: shutil.copytree(files, folder, symlinks=True),
    ]
    first = 0
    begun.touch()
    while not stop.exists():
        for way in ways:
            with contextlib.suppress(OSError, shutil.Error):
                way()
                first += 1
            plant_inside(folder, files)
            with contextlib.suppress(OSError):
                folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    return first


def open_each(paths: Iterable[Path]) -> list[str]:
    """Return the names of the files that can be read, and of the sockets that can be reached."""
    return [path.name for path in paths if _can_open(path)]


def _can_open(path: Path) -> bool:
    try:
        if path.name == "socket":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
        else:
            path.read_bytes()
    except PermissionError:
        return False
    return True
