"""Removes what an earlier keeper has left of kernels that ended while no keeper ran."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from nbsessions.keeper.clients import ClientFile
from nbsessions.keeper.folder import KeeperFolder
from nbsessions.private import PrivateFolder


def remove_leftovers(folder: KeeperFolder, kernel_ids: Collection[str]) -> None:
    """Remove the files of all kernels but these. Raises OSError."""
    stored = ClientFile(folder.clients)
    for kernel_id in {_kernel_of(name) for name in folder.clients.list_names()}:
        if kernel_id not in kernel_ids:
            for client in stored.read(kernel_id):
                _remove(folder.marks, client.connection or "")
    for each in (folder.clients, folder.spools):
        for name in each.list_names():
            if _kernel_of(name) not in kernel_ids:
                _remove(each, name)


def _kernel_of(name: str) -> str:
    return name.partition(".")[0]


def _remove(folder: PrivateFolder, name: str) -> None:
    with contextlib.suppress(OSError):
        folder.remove(name)
