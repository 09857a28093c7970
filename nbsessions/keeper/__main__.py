"""Runs the keeper of a runtime directory, unless one runs already.

The process that is started returns when the keeper, its child, can be reached.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import sys
from pathlib import Path

# All that is ever needed. The environment may be upgraded or removed while the keeper runs.
import psutil  # noqa: F401

from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.process import Keeper
from nbsessions.locks import FileLock

_LOG_SIZE = 200_000


def main() -> None:
    """Run. The only argument is the folder of the registry."""
    os.umask(0o077)
    folder = KeeperFolder(Path(sys.argv[1]))
    folder.make()
    ended, ready = os.pipe()
    if os.fork():
        os.close(ready)
        os.read(ended, 1)
        os._exit(0)
    os.close(ended)
    _detach()
    lock = FileLock(folder.lock, folder=folder.folder)
    if lock.acquire():
        Keeper(folder, log=_log(folder)).run(ready=lambda: os.close(ready))
    lock.close()


def _detach() -> None:
    os.chdir("/")
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)


def _log(folder: KeeperFolder) -> logging.Logger:
    log = logging.getLogger("nbsessions.keeper")
    handler = logging.handlers.RotatingFileHandler(
        folder.path / "log", maxBytes=_LOG_SIZE, backupCount=1
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return log


if __name__ == "__main__":
    main()
