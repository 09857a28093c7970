"""Runs the keeper of a runtime directory, unless one runs already.

The process that is started returns when the keeper, its child, can be reached.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import IO

# All that is ever needed. The environment may be upgraded or removed while the keeper runs.
import psutil  # noqa: F401
import zmq

from nbsessions.keeper.folder import KeeperFolder
from nbsessions.keeper.process import Keeper
from nbsessions.keeper.replacing import Replacement
from nbsessions.keeper.sockets import Context
from nbsessions.locks import FileLock

_LOG_SIZE = 200_000
_MOST_FILES = 65536
_MAX_SOCKETS = 8192
_TIMEOUT = 15.0
_INTERVAL = 0.05
_SWITCH_INTERVAL = 0.1
"""Seconds that a thread of the keeper may go on before it has to let another one run.

Each of them waits for files or sockets before that. On a busy machine, a thread that has to let
another one run waits until the system gives that one its turn.
"""


def main() -> None:
    """Run. The only argument is the folder of the registry."""
    os.umask(0o077)
    folder = KeeperFolder(Path(sys.argv[1]))
    folder.make()
    ended, ready = os.pipe()
    if os.fork():
        os.close(ready)
        with open(ended) as problem:
            sys.exit(problem.read() or None)
    os.close(ended)
    _detach()
    _allow_many_files()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with open(ready, "w") as problem:
        _run(folder, problem)


def _run(folder: KeeperFolder, problem: IO[str]) -> None:
    """Run the keeper. Close ``problem`` when it can be reached, or write why it cannot."""
    log = _log(folder)
    lock = FileLock(folder.lock, folder=folder.folder)
    context = _context()
    replacement = Replacement(folder, context, log=log)

    def ready() -> None:
        replacement.end()
        problem.close()

    try:
        if _acquire(lock, replacement):
            Keeper(folder, lock, context, replacement.inheritance, log=log).run(ready)
    except Exception as error:
        log.exception("Ended by an error")
        if not problem.closed:
            problem.write(str(error))
    finally:
        context.destroy(linger=0)
        replacement.end()
        lock.close()


def _acquire(lock: FileLock, replacement: Replacement) -> bool:
    """Take the lock. Return False if another keeper has it that can be reached and is not older.

    A keeper has the lock before it can be reached, and for a while afterwards.
    """
    deadline = time.monotonic() + _TIMEOUT
    while not lock.acquire(timeout=_INTERVAL):
        with contextlib.suppress(OSError):
            if not replacement.is_needed():
                return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"the keeper that has the lock {lock.path} cannot be reached")
    return True


def _context() -> Context:
    context: Context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
    return context


def _detach() -> None:
    os.chdir("/")
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)


def _allow_many_files() -> None:
    """Allow as many open files as sockets of kernels and clients may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


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
