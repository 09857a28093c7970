"""Has sessions follow the files that a host's contents manager renames."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from nbsessions.async_sessionmanager import AsyncSessionManager
from nbsessions.tasks import Tasks

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds that an asynchronous rename waits for its sessions, which then follow in their time."""
_FOLLOWED_BY = "_followed_by"


def follow_renames(contents_manager: Any, session_manager: AsyncSessionManager) -> None:
    """Have the sessions move with each file or folder that this contents manager renames.

    Wraps ``rename`` of the instance, whatever its class: that is what the REST API and callers
    in the process use, with the paths that sessions have. Idempotent. Called on the event loop
    of the session manager; ``rename`` may then be called from any thread. After a synchronous
    rename, the sessions move when its caller lets the event loop go on.
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
            # What goes on unawaited has to do so still.
            return asyncio.ensure_future(moved) if asyncio.isfuture(result) else moved
        follower.move_later(args, kwargs)
        return result

    return rename_and_move_later


class _Follower:
    """Moves the sessions after a rename. Whatever goes wrong with that is logged, not raised."""

    def __init__(self, session_manager: AsyncSessionManager) -> None:
        self._session_manager = session_manager
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()

    async def move_after(
        self, renaming: Awaitable[T], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> T:
        """Await the rename and, for a moment, the sessions; return what the rename returned."""
        result = await renaming
        if asyncio.get_running_loop() is self._loop:
            await asyncio.wait({self._move_soon(args, kwargs)}, timeout=_PATIENCE)
        else:
            self.move_later(args, kwargs)
        return result

    def move_later(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Have the sessions moved on the event loop; may be called from any thread."""
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
            # Our own errors come as the HTTPErrors that callers of a session manager expect.
            self._warn(args, kwargs, error.__cause__ or error)

    def _warn(self, args: Sequence[Any], kwargs: Mapping[str, Any], error: BaseException) -> None:
        self._session_manager.log.warning(
            "The sessions of a renamed file keep their paths (%s): %s",
            ", ".join(map(repr, [*args, *kwargs.values()])),
            error,
        )


def _paths(old_path: str, new_path: str, *args: Any, **kwargs: Any) -> tuple[str, str]:
    """Return the paths among the arguments of ``rename``; a subclass may have more."""
    return old_path, new_path
