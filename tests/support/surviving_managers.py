"""Kernel managers whose kernels survive, with light kernels and without a server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from jupyter_client.session import Session

from nbsessions.kernels import internals
from nbsessions.kernels.surviving.manager import SurvivingMappingKernelManager
from nbsessions.registry.process import ProcessIdentity
from nbsessions.registry.records import KernelRecord
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


def leave_kernel(folder: Path, process: ProcessIdentity) -> KernelRecord:
    """Leave a kernel behind that such a kernel manager can adopt, as a dead server does."""
    ports = dict.fromkeys(("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port"), 1)
    info = {"transport": "tcp", "ip": "127.0.0.1", "key": "", "signature_scheme": "hmac-sha256"}
    place = runtime_place(folder)
    return place.record(
        place.dead_server(),
        process,
        root_dir=os.path.realpath(folder / "root"),
        connection_info={**info, **ports},
    )


def receive(kernel: Any, message_type: str, content: dict[str, Any]) -> None:
    """Let the server receive a message that the kernel sends while it executes a cell."""
    session = Session(key=kernel.session.key)
    parent = session.msg("execute_request", {})
    frames = session.serialize(session.msg(message_type, content, parent=parent))
    internals.receiver(internals.activity_stream(kernel))(frames)
