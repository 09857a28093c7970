"""What the session benchmarks share: the two session managers and their surroundings."""

from __future__ import annotations

import platform
import sqlite3
import sys
from pathlib import Path
from typing import Any

import jupyter_server
from jupyter_server.services.contents.manager import ContentsManager
from jupyter_server.services.sessions.sessionmanager import SessionManager as StockSessionManager

import nbsessions
from benchmarks.kernels import FakeKernelManager
from nbsessions import AsyncSessionManager


class FakeContentsManager(ContentsManager):
    """The managers only ask it for the folder of a kernel."""

    def get_kernel_path(self, path: str, model: Any = None) -> str:
        return ""


def our_manager(folder: Path) -> AsyncSessionManager:
    """Return our session manager on a new file."""
    return our_manager_with(database_filepath=str(folder / "ours.db"))


def our_manager_with(**settings: str) -> AsyncSessionManager:
    """Return our session manager with these settings of its store."""
    return AsyncSessionManager(
        kernel_manager=FakeKernelManager(), contents_manager=FakeContentsManager(), **settings
    )


def stock_manager(folder: Path) -> StockSessionManager:
    """Return jupyter_server's session manager on a new file."""
    return StockSessionManager(
        kernel_manager=FakeKernelManager(),
        contents_manager=FakeContentsManager(),
        database_filepath=str(folder / "stock.db"),
    )


def describe(folder: Path) -> str:
    """Describe the versions in use and the folder's file system in one line."""
    return (
        f"nbsessions {nbsessions.__version__}, jupyter_server {jupyter_server.__version__}, "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()}, file system {_file_system(folder)}"
    )


def _file_system(folder: Path) -> str:
    if sys.platform != "linux":
        return "unknown"
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    folder = folder.resolve()
    matching = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    # Of equally long mount points, the last one hides the others.
    return max(reversed(matching), key=lambda mount: len(mount[1]))[2]
