"""Says why kernels cannot outlive their server here, and what helps."""

from __future__ import annotations

import errno
from pathlib import Path

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


def explain(error: Exception, folder: Path) -> str:
    """Return the error, and what a person can do about it. It concerns files in the folder."""
    if isinstance(error, PermissionError):
        return (
            f"{error}. Another user may have made it, as with sudo: make {folder.parent} and all "
            "in it yours (chown -R)"
        )
    if isinstance(error, OSError) and error.errno in _NO_LOCKS:
        return (
            f"{error}. The file system of {folder} has no file locks: set JUPYTER_RUNTIME_DIR to "
            "a folder on a local one"
        )
    return str(error)
