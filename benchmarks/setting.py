"""What the session benchmarks share: the two session managers and their surroundings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_server.services.contents.manager import ContentsManager
from jupyter_server.services.sessions.sessionmanager import SessionManager as StockSessionManager

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
