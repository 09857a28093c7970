"""Explanations of errors that prevent kernels from outliving their server."""

from __future__ import annotations

from pathlib import Path

from nbsessions.locks import LocksUnsupported
from nbsessions.private import Untrusted


def explain(error: Exception, folder: Path) -> str:
    """Return the message of an error about files in the folder, with advice for the user."""
    if isinstance(error, Untrusted):
        return (
            f"{error}. Remove {folder.parent}, or set JUPYTER_RUNTIME_DIR to a folder that only "
            "you can write to"
        )
    if isinstance(error, PermissionError):
        return (
            f"{error}. If you created it, for example with sudo, make yourself the owner of "
            f"{folder.parent} and everything in it (chown -R). Otherwise, set JUPYTER_RUNTIME_DIR "
            "to a folder that only you can write to"
        )
    if isinstance(error, LocksUnsupported):
        return (
            f"{error}. The file system of {folder} does not support file locks. Set "
            "JUPYTER_RUNTIME_DIR to a folder on a local file system"
        )
    return str(error)
