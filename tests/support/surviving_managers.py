"""Kernel managers whose kernels survive, with light kernels and without a server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nbsessions.kernels.surviving.manager import SurvivingMappingKernelManager
from support.hosts import make_kernel_manager
from support.surviving import Place


@contextlib.asynccontextmanager
async def surviving_kernel_manager(folder: Path, **traits: Any) -> AsyncIterator[Any]:
    """Yield a kernel manager with light kernels, which end with the test.

    There is no keeper for them, unless the traits say so.
    """
    traits.setdefault("keep_output", False)
    traits.setdefault("orphan_timeout", None)
    kernel_manager = make_kernel_manager(folder, SurvivingMappingKernelManager, **traits)
    kernel_manager.adopt_left()
    try:
        yield kernel_manager
    finally:
        await kernel_manager.shutdown_all(now=True)


def runtime_place(folder: Path) -> Place:
    """Return the place with the records of such a kernel manager."""
    return Place(folder / "runtime" / "nbsessions")
