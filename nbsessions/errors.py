"""What can go wrong, one class per case that a caller can act on.

::

    SessionError
    ├── InvalidRequest          a value that was sent cannot be used
    ├── SessionNotFound         no session answers to what was looked for
    ├── KernelNotFound          a kernel that was named is not there
    ├── KernelspecNotFound      no kernelspec of that name is installed
    ├── KernelConflict          a kernel id is taken, or its kernel is on its way out
    ├── KernelStartFailed       the kernel did not come up
    ├── StartInProgress         somebody else is starting a kernel for that path
    ├── StartLost               another start of that path was faster
    ├── ServiceClosed           the server is stopping
    └── StoreError
        ├── StoreUnavailable    nothing was written, or nothing could be read
        │   └── StoreUnusable   … until somebody changes permissions, or what is in the way
        ├── StoreUncertain      a commit was cut short: it may or may not have been kept
        ├── StoreDamaged        the file is not a usable database
        ├── StoreUnsupported    its place cannot hold a store
        └── StoreTooNew         the file was written by a newer release
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbsessions.models import Session


class SessionError(Exception):
    """The root of all errors that this package raises by itself."""


class InvalidRequest(SessionError):
    """A field holds a value that cannot be used; says which one and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class SessionNotFound(SessionError):
    """No session answers to ``looked_for`` (column → value)."""

    def __init__(self, **looked_for: object) -> None:
        terms = ", ".join(f"{column}={value!r}" for column, value in looked_for.items())
        super().__init__(f"Session not found: {terms}")
        self.looked_for = looked_for


class KernelNotFound(SessionError):
    """The kernel that a session was to be attached to is not there."""

    def __init__(self, kernel_id: str) -> None:
        super().__init__(f"No such kernel: {kernel_id!r}")
        self.kernel_id = kernel_id


class KernelspecNotFound(SessionError):
    """No kernelspec is installed under this name."""

    def __init__(self, kernel_name: str | None) -> None:
        super().__init__(
            f"The {kernel_name!r} kernel is not available. Please pick another "
            "suitable kernel instead, or install that kernel."
        )
        self.kernel_name = kernel_name


class KernelConflict(SessionError):
    """A kernel id cannot be used: it is taken, or its kernel is on its way out."""

    def __init__(self, kernel_id: str, problem: str) -> None:
        super().__init__(f"Kernel {kernel_id!r} {problem}")
        self.kernel_id = kernel_id


class KernelStartFailed(SessionError):
    """The kernel did not come up. The cause is chained; the message names only its class."""

    def __init__(self, kernel_name: str | None, cause: BaseException) -> None:
        super().__init__(
            f"The {kernel_name or 'default'!r} kernel could not be started "
            f"({type(cause).__name__}). The server's log says more."
        )
        self.kernel_name = kernel_name


class StartInProgress(SessionError):
    """Another start for this path is under way and has not ended in time."""

    def __init__(self, path: str | None) -> None:
        super().__init__(f"A kernel for {path!r} is being started already")
        self.path = path


class StartLost(SessionError):
    """Our start is void. ``winner`` is the session that holds the path now, if there is one.

    The store has noted our kernel as one to be stopped, under the token of the start.
    """

    def __init__(self, winner: Session | None) -> None:
        super().__init__("Another start of the same path was faster")
        self.winner = winner


class ServiceClosed(SessionError):
    """The server is stopping and takes no new work."""

    def __init__(self) -> None:
        super().__init__("The server is shutting down")


class StoreError(SessionError):
    """The session store could not do what it was asked to do."""


class StoreUnavailable(StoreError):
    """Nothing was written (or nothing could be read); trying again later makes sense."""


class StoreUnusable(StoreUnavailable):
    """The file or its folder cannot be used as they are, until somebody changes that."""


class StoreUncertain(StoreError):
    """A commit was cut short; whether it was kept has to be asked of the store."""


class StoreDamaged(StoreError):
    """The file is not a usable database."""


class StoreUnsupported(StoreError):
    """The file system lacks what a store needs, so that there has never been one."""


class StoreTooNew(StoreError):
    """The file was written by a release that this one cannot read."""
