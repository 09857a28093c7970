"""Updates sessions when the server's contents manager renames files."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.tasks import Tasks

T = TypeVar("T")

_WAIT_FOR_SESSIONS = 2.0
"""Seconds that an asynchronous rename waits until its sessions are updated.

After that, it returns, and the update continues in the background.
"""
_FOLLOWED_BY = "_followed_by"


def follow_renames(contents_manager: Any, session_manager: AsyncSessionManager) -> None:
    """Update the paths of sessions whenever this contents manager renames a file or folder.

    Wraps the ``rename`` method of the instance, because the REST API and other callers in the
    process use it, with the paths that sessions have. Idempotent. Must be called on the event
    loop of the session manager. ``rename`` may then be called from any thread. After a
    synchronous rename, the sessions are updated in the next iteration of the event loop.
    """
    rename = contents_manager.rename
    if getattr(rename, _FOLLOWED_BY, None) is session_manager:
        return
    wrapped = _wrap(rename, _Follower(session_manager))
    setattr(wrapped, _FOLLOWED_BY, session_manager)
    contents_manager.rename = wrapped


def _wrap(rename: Any, follower: _Follower) -> Any:
    if inspect.iscoroutinefunction(rename):

        @functools.wraps(rename)
        async def rename_and_move(*args: Any, **kwargs: Any) -> Any:
            return await follower.move_after(rename(*args, **kwargs), args, kwargs)

        return rename_and_move

    @functools.wraps(rename)
    def rename_and_move_later(*args: Any, **kwargs: Any) -> Any:
        result = rename(*args, **kwargs)
        if inspect.isawaitable(result):
            moved = follower.move_after(result, args, kwargs)
            # A future runs even if it is not awaited, so its replacement must, too.
            return asyncio.ensure_future(moved) if asyncio.isfuture(result) else moved
        follower.move_later(args, kwargs)
        return result

    return rename_and_move_later


class _Follower:
    """Updates the sessions after a rename. Errors are logged, not raised."""

    def __init__(self, session_manager: AsyncSessionManager) -> None:
        self._session_manager = session_manager
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()

    async def move_after(
        self, renaming: Awaitable[T], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> T:
        """Await the rename and the update of its sessions, and return the rename's result."""
        result = await renaming
        if asyncio.get_running_loop() is self._loop:
            await asyncio.wait({self._move_soon(args, kwargs)}, timeout=_WAIT_FOR_SESSIONS)
        else:
            self.move_later(args, kwargs)
        return result

    def move_later(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Update the sessions on the event loop. May be called from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._move_soon, args, kwargs)
        except RuntimeError as error:  # the loop is closed
            self._warn(args, kwargs, error)

    def _move_soon(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> asyncio.Task[None]:
        return self._tasks.spawn(self._move(args, kwargs))

    async def _move(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            await self._session_manager.rename_document(*_paths(*args, **kwargs))
        except Exception as error:
            # The session manager wraps its errors in HTTPErrors. Log the original error.
            self._warn(args, kwargs, error.__cause__ or error)

    def _warn(self, args: Sequence[Any], kwargs: Mapping[str, Any], error: BaseException) -> None:
        self._session_manager.log.warning(
            "The sessions of a renamed file keep their paths (%s): %s",
            ", ".join(map(repr, [*args, *kwargs.values()])),
            error,
        )


def _paths(old_path: str, new_path: str, *args: Any, **kwargs: Any) -> tuple[str, str]:
    """Return the two paths among the arguments of ``rename``. Subclasses may have more."""
    return old_path, new_path
