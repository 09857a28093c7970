"""The errors of this package, one class for each case that a caller can act on.

::

    SessionError
    ├── InvalidRequest          a value in a request is not valid
    ├── SessionNotFound         no session matches
    ├── KernelNotFound          the requested kernel does not exist
    │   └── KernelIdRefused     … and cannot be started under the requested id
    ├── KernelspecNotFound      the requested kernelspec is not installed
    ├── KernelConflict          a kernel id is in use, or its kernel is being shut down
    ├── KernelStartFailed       the kernel did not start
    ├── KernelsUnavailable      what runs the kernels cannot be reached
    │   └── KernelStartUncertain  … and may have started the kernel all the same
    ├── StartInProgress         another request is starting a kernel for the path
    ├── StartLost               another start for the path was faster
    ├── ServiceClosed           the server is stopping
    ├── NotSupported            the configured session manager does not offer this
    └── StoreError
        ├── StoreUnavailable    nothing was written, or nothing could be read
        │   └── StoreUnusable   … until a user changes permissions or removes an obstacle
        ├── StoreUncertain      it is not known whether a commit succeeded
        ├── StoreDamaged        the file is not a usable database
        ├── StoreUnsupported    the file system lacks what a store needs
        ├── StoreTooNew         the file was written by a newer release
        └── MoveRefused         what a store has cannot be moved to another one
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbsessions.models import Session


class SessionError(Exception):
    """The base class of all errors of this package."""


class InvalidRequest(SessionError):
    """A field of a request has a value that is not valid. The message says which and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class SessionNotFound(SessionError):
    """No session has the values in ``looked_for``, which maps columns to values."""

    def __init__(self, **looked_for: object) -> None:
        terms = ", ".join(f"{column}={value!r}" for column, value in looked_for.items())
        super().__init__(f"Session not found: {terms}")
        self.looked_for = looked_for


class KernelNotFound(SessionError):
    """The kernel that a request named does not exist."""

    def __init__(self, kernel_id: str) -> None:
        super().__init__(f"No such kernel: {kernel_id!r}")
        self.kernel_id = kernel_id


class KernelIdRefused(KernelNotFound):
    """The requested kernel does not exist, and what runs kernels chooses their ids itself."""


class KernelspecNotFound(SessionError):
    """No kernelspec with this name is installed."""

    def __init__(self, kernel_name: str | None) -> None:
        super().__init__(
            f"The {kernel_name!r} kernel is not available. Please pick another "
            "suitable kernel instead, or install that kernel."
        )
        self.kernel_name = kernel_name


class KernelConflict(SessionError):
    """A kernel id is in use, or its kernel is being shut down."""

    def __init__(self, kernel_id: str, problem: str) -> None:
        super().__init__(f"Kernel {kernel_id!r} {problem}")
        self.kernel_id = kernel_id


class KernelStartFailed(SessionError):
    """The kernel did not start. The cause is chained.

    If the cause is the system's error about a file, such as a missing command, the message names
    the file. Of other causes it names only the class, because their texts may contain secrets.
    ``told`` is what may be said instead, such as what a gateway tells its clients.
    """

    def __init__(self, kernel_name: str | None, cause: BaseException, *, told: str = "") -> None:
        problem = told or type(cause).__name__
        if isinstance(cause, OSError) and isinstance(cause.filename, (str, bytes, os.PathLike)):
            problem = f"{cause.strerror}: {os.fsdecode(cause.filename)!r}"
        super().__init__(
            f"The {kernel_name or 'default'!r} kernel could not be started ({problem}). "
            "See the server's log for details."
        )
        self.kernel_name = kernel_name


class KernelsUnavailable(SessionError):
    """What runs the kernels, such as a gateway, cannot be reached. A later attempt may succeed."""


class KernelStartUncertain(KernelsUnavailable):
    """It is not known whether the kernel was started, or still will be."""


class StartInProgress(SessionError):
    """Another start for this path was running and did not finish in time."""

    def __init__(self, path: str | None) -> None:
        super().__init__(f"A kernel for {path!r} is already being started")
        self.path = path


class StartLost(SessionError):
    """Another start for the path was faster.

    ``winner`` is the session that has the path now, or None. The store has added a 'stop' intent
    for the kernel of this start, with the token of the start.
    """

    def __init__(self, winner: Session | None) -> None:
        super().__init__("Another start for the same path was faster")
        self.winner = winner


class ServiceClosed(SessionError):
    """The server is stopping and accepts no requests that change sessions."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down")


class NotSupported(SessionError):
    """The configured session manager, which is not ours, does not offer what a route needs."""

    def __init__(self, offer: str) -> None:
        super().__init__(f"The configured session manager does not offer {offer}")
        self.offer = offer


class StoreError(SessionError):
    """An operation of the session store failed."""


class StoreUnavailable(StoreError):
    """Nothing was written, or nothing could be read. A later attempt may succeed."""


class StoreUnusable(StoreUnavailable):
    """The file, its folder or the database cannot be used until somebody changes something."""


class StoreUncertain(StoreError):
    """It is not known whether a commit succeeded. The caller has to read the store."""


class StoreDamaged(StoreError):
    """The file is not a usable database."""


class StoreUnsupported(StoreError):
    """The file system lacks what a store needs, so no store can ever have been there."""


class StoreTooNew(StoreError):
    """A newer release wrote the file or the database, and this one cannot read it."""


class MoveRefused(StoreError):
    """What a store has cannot be moved to another one. Nothing was moved."""
